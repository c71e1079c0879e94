"""HTML reports, each one self-contained file: the page (`page`), its plots (`plots`), the demo's report (`digits`)."""
