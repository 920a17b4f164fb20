"""An HTML page as tests look at it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags with attributes, text outside scripts, scripts by id, and tables by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[tuple[str | None, str]] = []
        self.styles = ""
        self.tables: dict[str, list[list[str]]] = {}
        self._inside, self._table, self._cell = "", "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag in {"script", "style"}:
            self._inside = tag
            self.scripts += [(attributes.get("id"), "")] if tag == "script" else []
        if tag == "table":
            self._table = attributes["id"]
            self.tables[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in {"td", "th"}:
            self.tables[self._table][-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in {"script", "style"}:
            self._inside = ""
        if tag in {"td", "th"}:
            self._cell = False

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside == "style":
            self.styles += data
        else:
            spaced = data.replace("\u00a0", " ")
            self.text += spaced
            if self._cell:
                self.tables[self._table][-1][-1] += spaced

    def script(self, id: str) -> str:
        (text,) = [text for name, text in self.scripts if name == id]
        return text
