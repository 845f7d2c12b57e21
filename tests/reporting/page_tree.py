"""A page as the browser would see it: its elements and attributes, and its visible text."""

from __future__ import annotations

from html.parser import HTMLParser

PAYLOADS = (
    "</script><img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "--><img src=x onerror=alert(1)>",
    "</style><style>*{display:none}</style>",
    "</title><script>alert(1)</script>",
    "</text></svg><script>alert(1)</script>",
    "</code></pre><iframe src=//evil.example></iframe>",
    "javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "]]><img src=x onerror=alert(1)>",
    "<!--<img src=x>",
    "\u202egpj.exe\u2066<b>",
    "\x00\x08<img/src=x\x0conerror=alert(1)>",
    "\udcff<math><mi xlink:href=javascript:alert(1)>",
    "<base href=//evil.example/><meta http-equiv=refresh content=0>",
    "line\nbreak\r<hr>",
)
"""Texts that want to be more than text."""


class _Tree(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.comments: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        self.elements.append((f"/{tag}", ()))

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def parse(page: bytes) -> _Tree:
    tree = _Tree()
    tree.feed(page.decode("utf-8"))
    tree.close()
    return tree


def words_of(page: bytes) -> str:
    """The visible text in one line."""
    return " ".join(" ".join(parse(page).text).split())


def check_self_contained(page: bytes) -> None:
    """S23: one file that fetches nothing and runs nothing, and says so to the browser."""
    tree = parse(page)
    policy = [value for tag, name, value in tree.attributes if tag == "meta" and name == "content"]
    assert any(value.startswith("default-src 'none'") for value in policy)
    assert not [value for value in policy if "script-src" in value or "http" in value]
    tags = {tag for tag, _ in tree.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "input"}
    for tag, name, value in tree.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            assert value.startswith("data:image/"), (tag, name, value)
        if name == "style":
            assert "url" not in value
        if name not in ("xmlns", "alt") and not value.startswith("data:"):
            assert "//" not in value, (tag, name, value)
    text = page.decode("utf-8")
    assert "@import" not in text
    assert "url(" not in text
