"""hf: and timm: names, against a small server that speaks the hub's language."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save

from deitkit.errors import ConfigError, ModelFileError
from deitkit.models import create_model, hub, load_weights
from deitkit.models.hub import fetch
from deitkit.models.hub_names import TIMM_TAGS, parse_hub_name
from deitkit.models.weight_source import describe_source

huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.constants")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories by name; every request is counted."""

    def __init__(self):
        self.repos = {}
        self.requests = []
        self.damaged = set()
        """Files whose bytes are not those that the hub states."""
        hub_state = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub_state.answer(self, with_body=True)

            def do_HEAD(self):
                hub_state.answer(self, with_body=False)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request, *, with_body):
        path = request.path.split("?")[0]
        self.requests.append(f"{request.command} {path}")
        parts = path.strip("/").split("/")
        status, headers, body = 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if parts[:2] == ["api", "models"]:
            status, headers, body = self.model_info("/".join(parts[2:4]), parts[4:])
        elif parts[2:3] == ["resolve"]:
            status, headers, body = self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    def model_info(self, repo, rest):
        if repo not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}'
        if rest and rest[1] not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "no such revision"}'
        siblings = []
        for name, content in self.repos[repo].items():
            entry = {"rfilename": name, "size": len(content)}
            if name in ("model.safetensors", "pytorch_model.bin"):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()

    def file(self, repo, revision, name):
        content = self.repos.get(repo, {}).get(name)
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        is_large = name in ("model.safetensors", "pytorch_model.bin")
        etag = (
            hashlib.sha256(content).hexdigest() if is_large else hashlib.sha1(content).hexdigest()
        )
        if name in self.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    served = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield served
    served.server.shutdown()
    served.server.server_close()


def tiny_repo(seed=0, **more):
    torch.manual_seed(seed)
    model = create_model("deit_nano_patch4_16", num_classes=2)
    config = {
        "architecture": "deit_tiny_patch16_224",
        "model_args": {"num_heads": 4},
        "label_names": ["ant", "bee"],
        "pretrained_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "input_size": [3, 16, 16],
            "crop_pct": 0.9,
        },
    }
    files = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(model.state_dict()),
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "training_args.bin": b"not asked for",
        **more,
    }
    return model, files


@pytest.mark.parametrize("name", ["hf:me/tiny", f"hf:me/tiny@{COMMIT}"])
def test_a_model_comes_in_is_cached_and_loads(fake_hub, name):
    model, fake_hub.repos["me/tiny"] = tiny_repo()
    told = []
    folder = fetch(name, progress=lambda *event: told.append(event))
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    size = len(fake_hub.repos["me/tiny"]["model.safetensors"])
    weights = [event[1:] for event in told if event[0] == "model.safetensors"]
    assert weights[-1] == (size, size)
    assert weights == sorted(set(weights))
    assert told[0][0] == "config.json" and told[-1][0] == "model.safetensors"

    num_requests = len(fake_hub.requests)
    assert fetch(name) == folder
    assert fetch(name, local_only=True) == folder
    assert len(fake_hub.requests) == num_requests

    found = describe_source(name)
    assert (found.source, found.licence) == (name, "apache-2.0")
    assert found.class_names == ("ant", "bee") and found.preprocessing.crop_ratio == 0.9
    ours = create_model(**found.architecture)
    load_weights(ours, name)
    assert torch.equal(ours.head.weight, model.head.weight)


def test_the_cache_serves_without_a_network(fake_hub, monkeypatch):
    _, fake_hub.repos["me/tiny"] = tiny_repo()
    folder = fetch("hf:me/tiny")
    monkeypatch.setattr(hub, "_accepts_connections", lambda *_: pytest.fail("asked the network"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf:me/tiny") == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("hf:me/tiny") == folder
    with pytest.raises(ModelFileError, match=r"\[OFFLINE\].*HF_HUB_OFFLINE is set"):
        fetch("hf:me/other")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFileError, match=r"\[OFFLINE\].*HF_HUB_OFFLINE is set"):
        fetch("hf:me/other")


def test_m02_old_weights_come_as_pytorch_model_bin(fake_hub, tmp_path):
    model, files = tiny_repo()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    files["pytorch_model.bin"] = (tmp_path / "w.pth").read_bytes()
    fake_hub.repos["me/both"] = dict(files)
    del files["model.safetensors"]
    fake_hub.repos["me/old"] = files
    assert not (fetch("hf:me/both") / "pytorch_model.bin").exists()
    ours = create_model("deit_nano_patch4_16", num_classes=2)
    load_weights(ours, "hf:me/old")
    assert torch.equal(ours.head.weight, model.head.weight)


def test_a_damaged_download_is_refused_and_removed(fake_hub):
    _, fake_hub.repos["me/tiny"] = tiny_repo()
    fake_hub.damaged.add("model.safetensors")
    for _ in range(2):
        with pytest.raises(ModelFileError, match=r"\[CHECKSUM\].*model\.safetensors") as caught:
            fetch("hf:me/tiny")
    sha256 = hashlib.sha256(fake_hub.repos["me/tiny"]["model.safetensors"]).hexdigest()
    assert f"the hub states {sha256[:12]}" in str(caught.value)
    with pytest.raises(ModelFileError, match=r"\[NOT_CACHED\]"):
        fetch("hf:me/tiny", local_only=True)
    fake_hub.damaged.clear()
    assert (fetch("hf:me/tiny") / "model.safetensors").is_file()


def test_a_copy_that_was_damaged_in_the_cache_is_refused_and_removed(fake_hub):
    _, fake_hub.repos["me/tiny"] = tiny_repo()
    path = (fetch("hf:me/tiny") / "model.safetensors").resolve()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelFileError, match=r"\[CHECKSUM\]"):
        fetch("hf:me/tiny", local_only=True)
    assert (fetch("hf:me/tiny") / "model.safetensors").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hf:me/nothing", "me/nothing is not there, or not open to all"),
        ("hf:me/tiny@v9", "me/tiny has no revision v9"),
        ("hf:me/bare", "me/bare has no model.safetensors nor pytorch_model.bin"),
        ("hf:me/unconfigured", "me/unconfigured has no config.json"),
        ("hf:me/large", "its weights are in several files"),
    ],
)
def test_what_is_not_on_the_hub_is_named(fake_hub, name, why):
    _, files = tiny_repo()
    fake_hub.repos["me/tiny"] = files
    fake_hub.repos["me/bare"] = {"config.json": b"{}"}
    fake_hub.repos["me/unconfigured"] = {"model.safetensors": files["model.safetensors"]}
    fake_hub.repos["me/large"] = {"config.json": b"{}", "model.safetensors.index.json": b"{}"}
    with pytest.raises(ModelFileError) as caught:
        fetch(name)
    assert caught.value.code == "NOT_ON_HUB" and caught.value.why == why
    # The library's own message, many lines long, does not reach the user.
    assert "\n" not in str(caught.value)


def test_a_server_that_is_no_hub_is_one_sentence(fake_hub, monkeypatch):
    monkeypatch.setattr(FakeHub, "model_info", lambda *_: (400, {}, b"<html>no</html>"))
    with pytest.raises(ModelFileError, match=r"\[DOWNLOAD\].*did not deliver it") as caught:
        fetch("hf:me/tiny")
    assert "\n" not in str(caught.value)


# Without a network


def test_a_closed_port_is_offline(fake_hub, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ModelFileError, match=r"\[OFFLINE\].*127\.0\.0\.1 cannot be reached"):
            fetch("timm:deit_tiny_patch16_224")
    assert fake_hub.requests == []


def test_a_connection_that_hangs_is_given_up_within_two_seconds(fake_hub, monkeypatch):
    """Looking the name up obeys no timeout, so it is waited for with a deadline of our own."""
    deadlines, waited, let_go, finished = [], [], threading.Event(), threading.Event()

    def hang(address, timeout=None):
        deadlines.append(timeout)
        let_go.wait(20)
        finished.set()
        raise OSError("name look-up failed")

    join = threading.Thread.join

    def recorded_join(self, timeout=None):
        if self.name == "deitkit-probe":
            waited.append(timeout)
            timeout = 0.05
        join(self, timeout)

    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(threading.Thread, "join", recorded_join)
    with pytest.raises(ModelFileError) as caught:
        fetch("timm:deit_tiny_patch16_224")
    assert not finished.is_set()
    let_go.set()
    assert caught.value.code == "OFFLINE"
    assert 0 < deadlines[0] < 2 and 0 < waited[0] < 2
    assert fake_hub.requests == []


def test_a_proxy_is_what_is_probed(monkeypatch):
    """Behind a proxy the hub's own address cannot be reached, and need not."""
    for name in ("no_proxy", "NO_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert hub._probe_address() == ("proxy.example", 3128)
    monkeypatch.setenv("no_proxy", "huggingface.co")
    assert hub._probe_address() == ("huggingface.co", 443)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:8080/hub/")
    assert hub._probe_address() == ("mirror.example", 8080)


def test_local_only_asks_nobody(fake_hub):
    with pytest.raises(ModelFileError, match=r"\[NOT_CACHED\]"):
        fetch("hf:me/tiny", local_only=True)
    assert fake_hub.requests == []


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:facebook/deit-tiny-patch16-224", ("facebook/deit-tiny-patch16-224", "main")),
        ("hf:me/my.model@refs/pr/3", ("me/my.model", "refs/pr/3")),
        ("timm:deit_tiny_patch16_224", ("timm/deit_tiny_patch16_224.fb_in1k", "main")),
        ("timm:regnety_160", ("timm/regnety_160.deit_in1k", "main")),
        (
            "timm:vit_tiny_patch16_224.augreg_in21k",
            ("timm/vit_tiny_patch16_224.augreg_in21k", "main"),
        ),
    ],
)
def test_names_and_what_they_mean(name, expected):
    assert parse_hub_name(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:name",
        "hf:a/b/c",
        "hf:../secret",
        "hf:me/..",
        "hf:me/x@",
        "hf:me/x@../y",
        "hf:me/x y",
        "hf:https://example.org/x",
        "timm:",
        "timm:resnet50",
        "timm:../x.y",
        "timm:a/b.c",
    ],
)
def test_names_that_cannot_be_are_refused(name):
    with pytest.raises(ConfigError, match=r"\[HUB_NAME\]"):
        parse_hub_name(name)


def test_an_unknown_timm_name_lists_those_with_a_custom():
    with pytest.raises(ConfigError, match=r"deit_tiny_patch16_224, .*regnety_160"):
        parse_hub_name("timm:resnet50")


def test_the_tags_exist_in_timm():
    registry = pytest.importorskip("timm.models")
    for name, tag in TIMM_TAGS.items():
        assert f"{name}.{tag}" in registry.list_pretrained(f"{name}.*")
        if name != "regnety_160":
            config = registry.get_pretrained_cfg(name)
            assert config.tag == tag, name


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"\[MISSING_PACKAGE\].*pip install huggingface_hub"):
        fetch("hf:me/tiny")
