"""Formulas of pages, `$...$` in a line and `$$...$$` on their own, as MathML: browsers set it without a script."""

import re

from latex2mathml.converter import convert

DISPLAY = re.compile(r"\$\$(.+?)\$\$", flags=re.DOTALL)
INLINE = re.compile(r"(?<![\\$\w])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\d$])")


def with_mathml(text: str) -> str:
    """Markdown without code, in which formulas in TeX have become MathML.

    Raises:
        ValueError: names a formula that cannot be set.
    """
    text = DISPLAY.sub(lambda match: f'<div class="formula" tabindex="0">{_mathml(match[1], "block")}</div>', text)
    return INLINE.sub(lambda match: f"<span>{_mathml(match[1], 'inline')}</span>", text)  # a line may begin with it


def _mathml(formula: str, display: str) -> str:
    try:
        return convert(" ".join(formula.split()), display=display)
    except Exception as error:  # of any kind: what is wrong is the formula
        raise ValueError(f"the formula {formula.strip()!r} cannot be set: {type(error).__name__} {error}") from error
