"""What a named corpus is and where it comes from: one TOML file each, and no text.

The archive is a package of a public registry, pinned by version and sha256. It is fetched by the
registry's own client, so that mirrors and proxies are those the user has configured, and it is
read as an archive: nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from state_core.atomic import sha256_file
from state_core.errors import DataError, StorageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Report = Callable[[str], None]
CACHE_VARIABLE = "STATE_CORE_CACHE"


class Split(BaseModel):
    """Which documents are held out: by name, or by the year that a name starts with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    valid_from: int | None = None
    test_from: int | None = None

    def part_of(self, name: str) -> str:
        """`train`, `valid` or `test`."""
        if self.valid_from is not None and self.test_from is not None:
            year = int(name[:4])
            return (
                "test"
                if year >= self.test_from
                else "valid"
                if year >= self.valid_from
                else "train"
            )
        return "test" if name in self.test else "valid" if name in self.valid else "train"


class Manifest(BaseModel):
    """A corpus: its package, its hash, its licence, and how its documents are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    description: str
    registry: Literal["pypi", "npm", "debian"]
    package: str
    version: str
    archive: str
    """File name of the archive, in the registry and in the cache."""
    bytes: int
    sha256: str
    licence: str
    documents: int
    words: int
    members: str
    """Pattern of the archive's members that hold text."""
    suffix: str = ""
    """What to cut off a member's name to get its document's name."""
    cut: tuple[str, ...] = ()
    """Regular expressions of what an edition added to the text, such as a publisher's notes."""
    encoding: str
    format: Literal["text", "verses", "r_lines", "wndb"]
    """One document a member; JSON lines of {book, chapter, text}, one document a book; R's
    lazy-load database, one document a vector of lines; or WordNet's, one a part of speech."""
    split: Split

    @property
    def path(self) -> Path:
        """Where the archive lies once fetched."""
        return cache_dir() / "archives" / self.archive

    @property
    def cached(self) -> bool:
        """Whether the archive has been fetched."""
        return self.path.is_file()


def cache_dir() -> Path:
    """The folder of everything fetched: $STATE_CORE_CACHE, or state_core in the user's cache."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "state_core"


def manifest_names() -> list[str]:
    """The named corpora."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load_manifest(name: str) -> Manifest:
    """The manifest of a named corpus; DataError names the nearest if there is none."""
    if name not in manifest_names():
        raise DataError(f"no corpus is named {name!r}: {nearest(name, manifest_names())}")
    return Manifest.model_validate(tomllib.loads((_folder() / f"{name}.toml").read_text("utf-8")))


def fetch_archive(manifest: Manifest, report: Report = lambda message: None) -> Path:
    """The corpus's archive in the cache, fetched if need be, its hash checked each time."""
    if not manifest.cached:
        report(f"fetching {manifest.package} {manifest.version} ({manifest.bytes / 1e6:.1f} MB)")
        _download(manifest)
    found = sha256_file(manifest.path)
    if found != manifest.sha256:
        raise DataError(
            f"{manifest.path} is not the archive that the corpus {manifest.name!r} is made of: "
            f"its sha256 is {found}, not {manifest.sha256}. Delete it and fetch it again"
        )
    return manifest.path


def _folder() -> Path:
    package = Path(__file__).parent.parent
    installed = package / "manifests"  # where a wheel carries them
    return installed if installed.is_dir() else package.parent / "data"


def _download(manifest: Manifest) -> None:
    target = manifest.path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the rename is atomic.
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:
            _run_client(manifest, Path(folder))
            (Path(folder) / manifest.archive).replace(target)
    except OSError as error:
        raise StorageError(
            f"cannot keep the corpus {manifest.name!r} in {target.parent}: {error}. "
            f"Free some space, or set {CACHE_VARIABLE} to another folder"
        ) from error


def _run_client(manifest: Manifest, folder: Path) -> None:
    command = CLIENTS[manifest.registry](manifest, folder)
    if shutil.which(command[0]) is None:
        raise DataError(_advice(manifest, f"{command[0]} is not installed"))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / manifest.archive).is_file():
        shown = " ".join(part for part in command if str(folder) not in part)
        lines = [line for line in done.stderr.splitlines() if line.strip()][-4:]
        tried = f"`{shown}` ended with {done.returncode}"
        raise DataError(_advice(manifest, "\n    ".join([tried, *lines])))


def _pip(manifest: Manifest, folder: Path) -> list[str]:
    # pip asks a source package for its metadata, which runs code of it: the hash comes first.
    requirement = f"{manifest.package}=={manifest.version} --hash=sha256:{manifest.sha256}\n"
    (folder / "requirements.txt").write_text(requirement, encoding="utf-8")
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"),
        *("--no-binary", manifest.package, f"--dest={folder}"),
        f"--requirement={folder / 'requirements.txt'}",
    ]


def _npm(manifest: Manifest, folder: Path) -> list[str]:
    return [
        *("npm", "pack", f"{manifest.package}@{manifest.version}", "--ignore-scripts"),
        *("--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"),
        f"--pack-destination={folder}",
    ]


def _apt(manifest: Manifest, folder: Path) -> list[str]:
    return [
        *("apt-get", "download", f"{manifest.package}={manifest.version}"),
        *("--quiet=2", "--option=Acquire::Retries=1"),
    ]


CLIENTS: dict[str, Callable[[Manifest, Path], list[str]]] = {
    "pypi": _pip,
    "npm": _npm,
    "debian": _apt,
}


def _advice(manifest: Manifest, tried: str) -> str:
    cached = [name for name in manifest_names() if load_manifest(name).cached]
    offline = [
        "train on your own text: data.source = a file, a folder or a glob such as 'my/*.txt'"
    ]
    if cached:
        offline.append(f"use what is here already: {', '.join(cached)}")
    if manifest.registry == "debian" and shutil.which("apt-get"):
        offline.append("with a network, `apt-get update` first: apt may not know the package yet")
    offline.append(f"copy {manifest.archive} (sha256 {manifest.sha256}) to {manifest.path.parent}")
    return (
        f"cannot fetch the corpus {manifest.name!r} ({manifest.package} {manifest.version}, "
        f"from {manifest.registry}).\n  Tried: {tried}\n  Without a network you can\n"
        + "\n".join(f"  - {item}" for item in offline)
    )
