"""Read a page as a browser would, as far as the standard library goes."""

from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link"}
TAGS = """
    html head meta title style body main header section h1 h2 h3 small p ul li div
    table thead tbody tr th td code dl dt dd svg g rect line path circle text
"""
ALLOWED = {*TAGS.split()}


class Page(HTMLParser):
    """Tags, attributes and text of a page; ``open`` is empty at the end if tags are balanced."""

    def __init__(self, source):
        super().__init__()
        self.source, self.text = source, ""
        self.open, self.tags, self.attributes, self.classes = [], set(), [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def note(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.classes += [value for name, value in attrs if name == "class"]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


def parse(path):
    return Page(path.read_text("utf-8"))


def check(page):
    """Assert that a page is whole, loads nothing and runs nothing."""
    assert page.open == []
    assert page.tags <= ALLOWED, f"{page.tags - ALLOWED}"
    names = {name for name, _ in page.attributes}
    assert not {n for n in names if n.startswith("on") or n in ("src", "href", "srcset", "style")}
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page.source
    assert ">nan<" not in page.source.lower()
    assert "None" not in page.text
