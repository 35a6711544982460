"""Whether a page can be read and used: contrast of its texts, and visible focus of its controls."""

from __future__ import annotations

from browser import Page

MIN_CONTRAST = 4.5  # of text and its background (WCAG 2, level AA)

# The texts with less contrast than MIN_CONTRAST to the colors behind them. A color is painted on
# a canvas to read it, because a style may have any notation.
LOW_CONTRAST_SCRIPT = """
(() => {
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const paint = (colors) => {
        context.clearRect(0, 0, 1, 1);
        for (const color of colors) {
            context.fillStyle = color;
            context.fillRect(0, 0, 1, 1);
        }
        return context.getImageData(0, 0, 1, 1).data;
    };
    const luminance = (data) => {
        const [r, g, b] = [...data].slice(0, 3).map((value) => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let numTexts = 0;
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim();
        const element = walker.currentNode.parentElement;
        const isHidden = !element.checkVisibility() || element.closest("script, style, title");
        if (!text || isHidden) continue;
        numTexts++;
        const behind = [];
        for (let parent = element; parent; parent = parent.parentElement) {
            behind.unshift(getComputedStyle(parent).backgroundColor);
        }
        const style = getComputedStyle(element);
        const isSvg = element.namespaceURI.endsWith("svg");
        const background = luminance(paint(behind));
        const foreground = luminance(paint([...behind, isSvg ? style.fill : style.color]));
        const [low, high] = [background, foreground].sort((a, b) => a - b);
        const contrast = (high + 0.05) / (low + 0.05);
        if (contrast < MIN_CONTRAST) found.push(`${contrast.toFixed(2)} ${text.slice(0, 40)}`);
    }
    return {found: [...new Set(found)], numTexts};
})()
"""

# The number of controls that the tab key should reach.
COUNT_CONTROLS_SCRIPT = """
[...document.querySelectorAll("a, button, summary, input, select, textarea, [tabindex]")]
    .filter((control) => control.tabIndex >= 0 && control.checkVisibility())
    .length
"""
FOCUS_SCRIPT = """
(() => {
    const element = document.activeElement;
    const {outlineStyle, outlineWidth} = getComputedStyle(element);
    const index = [...document.querySelectorAll("*")].indexOf(element);
    return {index, outline: `${outlineStyle} ${outlineWidth}`};
})()
"""


def check_contrast(page: Page) -> None:
    """Check that all visible texts can be told from their background."""
    texts = page.evaluate(LOW_CONTRAST_SCRIPT.replace("MIN_CONTRAST", str(MIN_CONTRAST)))
    assert texts["numTexts"] > 20
    assert texts["found"] == []


def check_focus(page: Page) -> None:
    """Check that the tab key reaches all controls, and that each shows that it has the focus."""
    num_controls = page.evaluate(COUNT_CONTROLS_SCRIPT)
    assert num_controls >= 5
    reached = set()
    for _ in range(num_controls):
        page.press("Tab")
        focus = page.evaluate(FOCUS_SCRIPT)
        assert focus["outline"] == "solid 2px"
        reached.add(focus["index"])
    assert len(reached) == num_controls
