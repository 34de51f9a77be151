"""Releases are whole, and signed by who is trusted to sign."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrain_assets.stores.place import Folder
from retrain_assets.stores.registry import release, signature
from retrain_assets.stores.registry.model_file import ModelFileError

CONTENT = {name: name.encode() for name in release.FILES}


def pair() -> tuple[str, str]:
    """A private key and its public key, as openssl writes them."""
    key = Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, plain
    ).decode(), public.decode()


def test_only_a_release_that_a_trusted_key_has_signed_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (private, public), (_, other) = pair(), pair()
    unsigned = release.publish(str(tmp_path), "plain", CONTENT, {})
    (tmp_path / "release.pem").write_text(private, encoding="utf-8")
    monkeypatch.setenv(signature.PRIVATE, str(tmp_path / "release.pem"))
    signed = release.publish(str(tmp_path), "signed", CONTENT, {"version": 7})
    assert release.read(unsigned)[0] == release.read(signed)[0] == CONTENT
    (tmp_path / "trusted.pem").write_text(other + public, encoding="utf-8")
    monkeypatch.setenv(signature.TRUSTED, str(tmp_path / "trusted.pem"))
    assert release.read(signed)[1]["version"] == 7
    with pytest.raises(ModelFileError, match="plain is not signed: ask who made it"):
        release.read(unsigned)
    monkeypatch.setenv(signature.TRUSTED, other)
    with pytest.raises(ModelFileError, match="signed has a signature of another key"):
        release.read(signed)
    monkeypatch.setenv(signature.TRUSTED, public)
    manifest = Path(signed) / release.MANIFEST
    manifest.write_text(manifest.read_text().replace("7", "8"), encoding="utf-8")
    with pytest.raises(ModelFileError, match="signature of another key"):
        release.read(signed)
    monkeypatch.setenv(signature.PRIVATE, public)
    with pytest.raises(ValueError, match="names no private key: make one with `openssl genpkey"):
        release.publish(str(tmp_path), "more", CONTENT, {})
    monkeypatch.setenv(signature.TRUSTED, str(tmp_path))
    with pytest.raises(ValueError, match="RETRAIN_RELEASE_TRUSTED names no public keys"):
        release.read(signed)


def test_a_release_that_was_not_finished_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Folder.write

    def fail(place: Folder, name: str, content: bytes) -> None:
        if name == release.MANIFEST:
            raise OSError("killed")
        write(place, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", fail)
        with pytest.raises(OSError, match="killed"):
            release.publish(str(tmp_path), "v1", CONTENT, {})
    assert not release.is_release(str(tmp_path / "v1"))
    place = release.publish(str(tmp_path), "v1", CONTENT, {})
    assert release.is_release(place)
    with pytest.raises(ValueError, match="has another model: name another folder"):
        release.publish(str(tmp_path), "v1", {**CONTENT, release.MODEL_FILE: b"x"}, {})
