"""A hub on localhost: the routes that huggingface_hub asks for to make, fill, list and fetch a model."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"
_MODEL = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LARGE = (".safetensors", ".pt")


@dataclass
class Model:
    """The files of each commit of a model, the last one being `main`."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        if revision == "main":
            return next(reversed(self.commits), None)
        return revision if revision in self.commits else None


@dataclass
class Hub:
    """What is on the hub, and which files were asked for; `down` answers all with 500."""

    endpoint: str = ""
    models: dict[str, Model] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    down: bool = False

    def put(self, name: str, files: dict[str, bytes], **facts: bool) -> str:
        """Commit files to a model, as somebody else does; the commit's name."""
        model = self.models.setdefault(name, Model(**facts))
        commit = hashlib.sha1(f"{name}{len(model.commits)}".encode()).hexdigest()
        model.commits[commit] = files
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X_Error_Code": code, "X_Error_Message": message or code}
        self._answer(status, {"error": message or code}, **headers)

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body, path = self.rfile.read(length), unquote(urlsplit(self.path).path)
        if self.hub.down:
            self._refuse(500, message="down")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif path.startswith("/large/"):
            self.hub.large[path.rpartition("/")[2]] = body
            self._answer(200, {})
        elif found := _MODEL.fullmatch(path):
            self._model(found[1], found[2] or "revision", found[3] or "main", body)
        elif found := _FILE.fullmatch(path):
            self._file(found[1], found[2], found[3])
        else:
            self._refuse(404, message=f"no route {path}")

    do_GET = do_HEAD = do_POST = do_PUT = _any

    def _create(self, wanted: dict[str, object]) -> None:
        if not self._known:
            self._refuse(401, message="Invalid username or password.")
            return
        name = f"{wanted['organization']}/{wanted['name']}"
        status = 409 if name in self.hub.models else 200
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.hub.models.setdefault(name, Model(private=private))
        self._answer(status, {"url": f"{self.hub.endpoint}/{name}", "id": "1", "name": name})

    def _batch(self, wanted: dict[str, list[dict[str, object]]]) -> None:
        objects = [
            each | {"actions": {"upload": {"href": f"{self.hub.endpoint}/large/{each['oid']}", "header": {}}}}
            for each in wanted["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _model(self, name: str, what: str, revision: str, body: bytes) -> None:
        model = self.hub.models.get(name)
        if model is None or (model.private and not self._known):
            self._refuse(401, "RepoNotFound")
        elif what == "preupload":
            paths = [each["path"] for each in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": _mode(path), "shouldIgnore": False} for path in paths]
            self._answer(200, {"files": modes})
        elif what == "commit":
            self._commit(name, model, body)
        elif (commit := model.commit_of(revision)) is None:
            self._refuse(404, "RevisionNotFound")
        elif what == "revision":
            self._answer(200, {"id": name, "modelId": name, "sha": commit, "private": model.private})
        else:
            self._answer(200, [_entry(path, content) for path, content in model.commits[commit].items()])

    def _commit(self, name: str, model: Model, body: bytes) -> None:
        if not self._known:
            self._refuse(403, message="no right to write")
            return
        last = model.commit_of("main")
        files = dict(model.commits[last]) if last else {}
        for line in map(json.loads, body.splitlines()):
            match line["key"], line["value"]:
                case "file", value:
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile", value:
                    files[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile", value:
                    del files[value["path"]]
        commit = self.hub.put(name, files)
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _file(self, name: str, revision: str, path: str) -> None:
        model = self.hub.models.get(name, Model())
        commit = model.commit_of(revision)
        content = model.commits[commit].get(path) if commit else None
        if model.gated and not self._known:
            self._refuse(403, "GatedRepo")
        elif content is None:
            self._refuse(404, "EntryNotFound")
        else:
            self.hub.fetched.append(path)
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._answer(200, content, ETag=etag, X_Repo_Commit=str(commit))


def _mode(path: str) -> str:
    return "lfs" if path.endswith(_LARGE) else "regular"


def _entry(path: str, content: bytes) -> dict[str, object]:
    oid = hashlib.sha256(content).hexdigest()
    large = {"lfs": {"oid": oid, "size": len(content), "pointerSize": 130}} if _mode(path) == "lfs" else {}
    return {"type": "file", "path": path, "size": len(content), "oid": oid[:40], **large}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers at its `endpoint` meanwhile."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
