"""Small packages for the tests of fixtures, built here."""

from __future__ import annotations

import hashlib
import io
import tarfile


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    """A Debian package of files, by their path below the root (deb(5))."""
    control = b"Package: tiny-rows\nVersion: 1.0-1\nArchitecture: all\nMaintainer: nobody\nDescription: rows\n"
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar({"./control": control}, "w:xz"),
        "data.tar.xz": tar({f"./{path}": content for path, content in files.items()}, "w:xz"),
    }
    return b"!<arch>\n" + b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
        for name, content in parts.items()
    )
