"""Git repositories as a source of plugins: which commit a name is, and the files of a commit."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
from pathlib import Path

from attrs import frozen

from walmill.environments.tool import InstallFailed, Say, run
from walmill.errors import InvalidRequest

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_ENVIRONMENT = ("-c", "protocol.allow=never", "-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false")
_ALLOWED = tuple(
    part for scheme in ("https", "http", "ssh", "git", "file") for part in ("-c", f"protocol.{scheme}.allow=always")
)


@frozen
class Commit:
    """What was found.

    Attributes:
        commit: The commit, 40 hexadecimal digits.
        tree: Git's hash of the files that are meant: of the commit, or of a directory in it.
    """

    commit: str
    tree: str


class Repository:
    """A copy of a repository.

    Args:
        place: Where copies are kept.
        address: Its URL.
    """

    def __init__(self, place: Path, address: str) -> None:
        self._path = place / hashlib.sha256(address.encode()).hexdigest()[:24]
        self._address = address

    def _git(self, *arguments: str, say: Say = lambda line: None) -> str:
        return run(["git", *_ENVIRONMENT, *_ALLOWED, "-C", str(self._path), *arguments], say).strip()

    def find(self, ref: str | None, subdirectory: str, say: Say) -> Commit:
        """Asks the repository which commit a name is now.

        Args:
            ref: Branch, tag or commit; None for the default branch.
            subdirectory: A directory in it.
            say: Takes what git says.

        Raises:
            InstallFailed: If it cannot be reached.
            InvalidRequest: If there is no such name or directory.
        """
        if not (self._path / "HEAD").is_file():
            self._path.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare")
        self._git(
            "fetch",
            "--quiet",
            "--force",
            "--prune",
            "--no-write-fetch-head",
            "--",
            self._address,
            "+refs/heads/*:refs/heads/*",
            "+refs/tags/*:refs/tags/*",
            say=say,
        )
        commit = self._commit(ref)
        try:
            tree = self._git(
                "rev-parse", "--verify", "--quiet", f"{commit}:{subdirectory}" if subdirectory else f"{commit}^{{tree}}"
            )
            kind = self._git("cat-file", "-t", tree)
        except InstallFailed:
            kind = ""
        if kind != "tree":
            raise InvalidRequest(f"{self._address} has no directory {subdirectory!r} at {commit[:12]}")
        return Commit(commit, tree)

    def _commit(self, ref: str | None) -> str:
        if ref is None:
            told = self._git("ls-remote", "--symref", "--", self._address, "HEAD").splitlines()
            found = [line.split()[0] for line in told if line.endswith("\tHEAD") and not line.startswith("ref:")]
            if not found:
                raise InvalidRequest(f"{self._address} has no default branch; name one: …@BRANCH")
            return found[0]
        names = [f"refs/tags/{ref}", f"refs/heads/{ref}", *([ref] if _COMMIT.fullmatch(ref) else [])]
        for name in names:
            try:
                return self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
            except InstallFailed:
                continue
        raise InvalidRequest(f"{self._address} has no branch, tag or commit {ref!r}")

    def has(self, commit: Commit) -> bool:
        """Whether the files of a commit are here already, so that nobody has to be asked."""
        try:
            return self._git("cat-file", "-t", commit.tree) == "tree"
        except (InstallFailed, OSError):
            return False

    def export(self, tree: str, target: Path) -> None:
        """Writes the files of a tree into a directory.

        Raises:
            InstallFailed: If the tree holds what leads out of the directory, or is not there.
        """
        command = ["git", "-C", str(self._path), "archive", "--format=tar", tree]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own command line
        if done.returncode:
            raise InstallFailed(f"git archive failed: {done.stderr.decode('utf-8', 'replace').strip()}")
        target.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            try:
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(target, filter="data")  # which refuses what leads elsewhere
                else:  # Python 3.11 before its fourth correction; git has no paths that lead elsewhere, but links
                    for member in archive.getmembers():
                        if not (member.isreg() or member.isdir()):
                            raise tarfile.TarError(f"{member.name} is a link")
                    archive.extractall(target)  # noqa: S202 - looked at above
            except tarfile.TarError as error:
                raise InstallFailed(f"the repository holds a file that cannot be taken: {error}") from None
