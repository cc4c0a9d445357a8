"""The one file of a multipart/form-data body, taken out of it as it arrives."""

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dsnet_med.errors import one_line
from dsnet_med.server.refusal import Refused

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

NAME = "file"
_WANTED = f"wanted one part called '{NAME}'"


class FilePart:
    """Takes a body chunk by chunk and gives the bytes of its part `file`; holds one chunk at a time."""

    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise Refused(400, "its multipart/form-data names no boundary; let the client library write it")
        self._out = bytearray()
        self._header = ["", ""]
        self._disposition = ""
        self._found = self._ended = False
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise Refused(400, f"its multipart boundary cannot be used ({one_line(error)})") from error

    def feed(self, chunk: bytes) -> bytes:
        """What of the file lies in `chunk`. Raises Refused for other parts and for what is no multipart."""
        self._out.clear()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Refused(400, f"not readable as multipart/form-data ({one_line(error)})") from error
        return bytes(self._out)

    def finish(self) -> None:
        """Raise Refused unless the whole file was there."""
        if not self._found:
            raise Refused(422, f"got no file, {_WANTED}")
        if not self._ended:
            raise Refused(400, "the upload is cut short; send it again")

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_header_field": lambda data, start, end: self._collect(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._collect(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._part_begins,
            "on_part_data": lambda data, start, end: self._out.extend(data[start:end]),
            "on_end": self._end,
        }

    def _collect(self, place: int, part: bytes) -> None:
        self._header[place] += part.decode("latin-1")

    def _header_end(self) -> None:
        if self._header[0].lower() == "content-disposition":
            self._disposition = self._header[1]
        self._header = ["", ""]

    def _part_begins(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"").decode("utf-8", "replace")
        self._disposition = ""
        if name != NAME:
            raise Refused(422, f"got a part called '{one_line(name, 40)}', {_WANTED}")
        if self._found:
            raise Refused(422, f"got several files, {_WANTED}; put the files of a series into a zip")
        self._found = True

    def _end(self) -> None:
        self._ended = True
