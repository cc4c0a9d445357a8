"""A page read as a browser would: its tags nest; its addresses and its text are collected."""

import html.parser

VOID_TAGS = {"meta", "img", "br", "wbr", "input"}


class Parser(html.parser.HTMLParser):
    """Checks that tags nest; collects addresses and text."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href", "action", "data")]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read_page(text):
    parser = Parser()
    parser.feed(text)
    assert not parser.open
    return parser
