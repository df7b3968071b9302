"""Keys and certificates as files: private from their first moment, and never overwritten.

A file is created with O_EXCL, by its final name, and with a mode no wider than its final one,
whatever the umask; it is fsynced before anyone is told of it. A pair is written key first, so that
a crash between the two leaves a key without a certificate, which nobody can have used yet, and
never a certificate whose key is lost unnoticed. Only two things ever take another's place: a list
of what is revoked, and a renewed pair; both are whole under another name first.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs_certs.errors import CertsError

PRIVATE = 0o600
PUBLIC = 0o644
OTHERS = 0o077
"""The permission bits of everybody but the owner."""


def make_private(directory: Path) -> None:
    """Make sure that `directory` exists and is its owner's alone.

    An empty directory is made private; the permissions of one with something in it are its owner's
    business, and not changed behind his back.

    Raises:
        CertsError: it cannot be made, or others may look into it.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & OTHERS and any(directory.iterdir()):
            raise CertsError(
                f"The directory {directory} is open to others (mode {mode:04o}), and is to hold "
                f"keys. Close it with `chmod 700 {directory}`, or name another one."
            )
        directory.chmod(0o700)
    except OSError as error:
        raise CertsError(f"Cannot make the directory {directory}: {error.strerror}.") from error


def write_pair(directory: Path, name: str, key: bytes, certificate: bytes) -> tuple[Path, Path]:
    """Write `NAME.key` and `NAME.crt`, both or neither.

    Returns:
        The paths of the certificate and of the key.

    Raises:
        CertsError: one of them exists, or the system refuses.
    """
    certificate_path, key_path = directory / f"{name}.crt", directory / f"{name}.key"
    refuse_existing(certificate_path, key_path)
    _create(key_path, key, PRIVATE)
    try:
        _create(certificate_path, certificate, PUBLIC)
        _sync_directory(directory)
    except BaseException:
        key_path.unlink()
        raise
    return certificate_path, key_path


def refuse_existing(certificate: Path, key: Path) -> None:
    """Refuse to go on where anything would be overwritten; say what is there.

    Raises:
        CertsError: one of the two exists.
    """
    has_certificate, has_key = (os.path.lexists(p) for p in (certificate, key))
    if has_key and not has_certificate:
        raise CertsError(
            f"{key} exists, but {certificate.name} does not: an earlier attempt was cut short. "
            f"If no certificate was ever made for this key, remove {key} and try again."
        )
    if has_key or has_certificate:
        raise CertsError(
            f"{certificate if has_certificate else key} exists, and nothing is ever overwritten. "
            "Take another name, or move the old files away."
        )


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold a directory's lock: two who change its list at once would lose what one of them wrote.

    Raises:
        CertsError: it cannot be opened.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CertsError(f"Cannot open {directory}: {error.strerror}.") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def replace(path: Path, data: bytes) -> None:
    """Give a public file new contents: the old ones or the new, whatever happens meanwhile.

    Raises:
        CertsError: the system refuses.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of an attempt that was cut short
    _create(new, data, PUBLIC)
    move(new, path)


def move(source: Path, target: Path) -> None:
    """Rename a file, over another one if there is one; on disk when this returns.

    Raises:
        CertsError: the system refuses.
    """
    try:
        source.rename(target)
        _sync_directory(target.parent)
        if source.parent != target.parent:
            _sync_directory(source.parent)
    except OSError as error:
        raise CertsError(f"Cannot rename {source} to {target}: {error.strerror}.") from error


def keep(path: Path, copy: Path) -> None:
    """Give a file a second name, which it may have already; on disk when this returns.

    Raises:
        CertsError: the system refuses.
    """
    try:
        copy.hardlink_to(path)
    except FileExistsError:
        return
    except OSError as error:
        raise CertsError(f"Cannot keep {path} as {copy}: {error.strerror}.") from error
    _sync_directory(copy.parent)


def read(path: Path) -> bytes:
    """Read a file that anybody may read.

    Raises:
        CertsError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertsError(f"Cannot read {path}: {error.strerror}.") from error


def read_private(path: Path) -> bytes:
    """Read a key, unless others may read it too.

    Raises:
        CertsError: it cannot be read, or others can.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & OTHERS:
                raise CertsError(
                    f"The key {path} is open to others (mode {mode:04o}). If nobody can have "
                    f"copied it, close it with `chmod 600 {path}`; otherwise make a new one."
                )
            return file.read()
    except OSError as error:
        raise CertsError(f"Cannot read {path}: {error.strerror}.") from error


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise CertsError(f"{path} exists, and nothing is ever overwritten.") from None
    except OSError as error:
        raise CertsError(f"Cannot create {path}: {error.strerror}.") from error
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)  # gives back what the umask took; the mode was never wider
            file.write(data)
            file.flush()
            os.fsync(fd)
    except BaseException as error:
        path.unlink()
        if isinstance(error, OSError):
            raise CertsError(f"Cannot write {path}: {error.strerror}.") from error
        raise


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
