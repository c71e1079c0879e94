// The theme gives each block of code a <nav> for its button to copy, without a name: a page would have many alike.
const named = () => document.querySelectorAll("nav.md-code__nav:not([role])").forEach((nav) => nav.setAttribute("role", "presentation"));
new MutationObserver(named).observe(document.body, { childList: true, subtree: true });
named();
