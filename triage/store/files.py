"""Durable object store: safe names, atomic writes, deletion; knows no database and reads no DICOM.

    spool/        transfers under way; on the same file system, so that a finished one is moved in with one rename
    instances/    received images:  <digest of study UID>/<digest of instance UID>-<random>.dcm
    results/      what is sent out: <digest of study UID>/<digest of its UID>.dcm, or .message
    trash/        folders on their way out

Names are digests: nothing a sender writes reaches a path, and no path shows a UID. A received file never replaces
another one: after a crash, or when two associations bring one UID at once, the database row says which file counts.
"""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from triage.errors import ConfigError, NoResources, UnreadableInstance

UID_PATTERN = re.compile(r"[0-9]+(\.[0-9]+)*")
"""PS3.5 9.1, but for leading zeros, which some scanners write."""

UID_CHARACTERS = 64

NAME_CHARACTERS = 32
"""Hexadecimal digits of a SHA-256 kept in a name: 128 bits."""

SYNC_THREADS = 16
"""As many associations may wait for the disk at once."""

FOLDER_MODE = 0o700
"""Images of patients: for the node's own user only."""


class Store:
    """The folders below node.data_dir."""

    def __init__(self, root: Path) -> None:
        """Name the folders; makes none.

        Args:
            root: node.data_dir.
        """
        self.root = root.absolute()
        self.spool = self.root / "spool"
        self.instances = self.root / "instances"
        self.results = self.root / "results"
        self.trash = self.root / "trash"
        self._syncing = ThreadPoolExecutor(SYNC_THREADS, "sync")

    def prepare(self) -> None:
        """Make the folders and try to write in them.

        Raises:
            ConfigError: One cannot be made or written, or they lie on different file systems.
        """
        folders = (self.root, self.spool, self.instances, self.results, self.trash)
        for folder in folders:
            try:
                folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                probe = folder / f".probe-{secrets.token_hex(4)}"
                probe.touch(exist_ok=False)
                probe.unlink()
            except OSError as e:
                raise ConfigError(
                    f"node.data_dir: {folder} cannot be written ({e.strerror}); "
                    "choose another folder or mend its permissions"
                ) from e
        if len({folder.stat().st_dev for folder in folders[1:]}) > 1:
            raise ConfigError(
                f"node.data_dir: the folders in {self.root} lie on different file systems; a received file could not "
                "be moved in one step: keep them on one"
            )

    def close(self) -> None:
        """End the threads that sync; only where a process goes on without the store."""
        self._syncing.shutdown()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other node out of this folder; the lock ends with the process, however that ends.

        Raises:
            ConfigError: Another node runs on it.
        """
        with (self.root / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise ConfigError(
                    f"node.data_dir: another node is running on {self.root}; stop it or choose another folder"
                ) from e
            yield

    def keep_instance(self, temporary: Path, study_uid: str, sop_instance_uid: str) -> Path:
        """Move a received file to its place; it survives a power cut from here on.

        Args:
            temporary: Complete file in the spool; gone afterwards.
            study_uid: Names the folder.
            sop_instance_uid: Names the file.

        Returns:
            Where it lies now, under a name that was never used before.

        Raises:
            UnreadableInstance: A UID is none.
            NoResources: The file system refuses.
        """
        folder = self.instances / _name(study_uid)
        path = folder / f"{_name(sop_instance_uid)}-{secrets.token_hex(4)}.dcm"
        try:
            _make_folder(folder)
            try:
                temporary.replace(path)
            except FileNotFoundError:  # retention took the folder away this moment
                _make_folder(folder)
                temporary.replace(path)
            # The file is nobody's until its row is committed, so its content may be synced under its last name. Each
            # sync waits for the disk, and here that wait is the time a sender waits: so both at once.
            entry = self._syncing.submit(_sync, folder)
            _sync(path)
            entry.result()
        except OSError as e:
            path.unlink(missing_ok=True)
            raise NoResources(f"a received file cannot be kept: {e.strerror}") from e
        return path

    def write_result(
        self, study_uid: str, sop_instance_uid: str, writer: Callable[[BinaryIO], None], suffix: str = ".dcm"
    ) -> Path:
        """Write an object or message to be sent out: whole and synced, or not at all.

        An unfinished analysis that is run again writes the same object again, in place of its first try.

        Args:
            study_uid: Names the folder.
            sop_instance_uid: Names the file.
            writer: Writes the object into an open file.
            suffix: Of the file's name.

        Returns:
            Where it lies.

        Raises:
            UnreadableInstance: A UID is none.
        """
        folder = self.results / _name(study_uid)
        path = folder / f"{_name(sop_instance_uid)}{suffix}"
        part = path.with_suffix(".part")
        _make_folder(folder)
        try:
            with part.open("wb") as file:
                writer(file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        _sync(folder)
        return path

    def free_bytes(self) -> int:
        """Bytes that this process may still write."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def discard_study_images(self, study_uid: str) -> None:
        """Move the received images of a study out of the way in one step; nothing where it has none.

        Args:
            study_uid: The study.
        """
        folder = self.instances / _name(study_uid)
        try:
            folder.replace(self.trash / f"{folder.name}-{secrets.token_hex(4)}")
        except FileNotFoundError:
            return
        _sync(self.instances)

    def empty_trash(self) -> None:
        """Delete what was discarded, also by an earlier process."""
        for folder in self.trash.iterdir():
            shutil.rmtree(folder, ignore_errors=True)


def _name(uid: str) -> str:
    """A file name that says nothing about the UID and is the same for the same UID.

    Raises:
        UnreadableInstance: It is no UID.
    """
    if len(uid) > UID_CHARACTERS or not UID_PATTERN.fullmatch(uid):
        raise UnreadableInstance("a UID is not made of 1 to 64 digits and points")
    return hashlib.sha256(uid.encode("ascii")).hexdigest()[:NAME_CHARACTERS]


def _make_folder(folder: Path) -> None:
    """Make a folder whose parent exists, durably; nothing where it is there."""
    try:
        folder.mkdir(mode=FOLDER_MODE)
    except FileExistsError:
        return
    _sync(folder.parent)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
