"""Signatures of releases: Ed25519, as `openssl` makes and verifies it too.

The keys come from the environment, each as the path of a PEM file or as its text. Not here: what is
signed.
"""

import re
from pathlib import Path

from retrain_assets.stores.registry.model_file import ModelFileError

PRIVATE, TRUSTED = "RETRAIN_RELEASE_KEY", "RETRAIN_RELEASE_TRUSTED"
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


def sign(content: bytes, key: str) -> bytes:
    """Return the signature of a content.

    Args:
        content: What is signed.
        key: The value of `RETRAIN_RELEASE_KEY`.

    Raises:
        ValueError: It names no private key of Ed25519 without a password.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(_read(key), None)
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm):
        private = None
    if isinstance(private, Ed25519PrivateKey):
        return private.sign(content)
    raise ValueError(
        f"{PRIVATE} names no private key: make one with `openssl genpkey -algorithm ed25519 -out "
        "release.pem`, and let it be the path or the text of that file"
    )


def verify(content: bytes, signature: bytes, keys: str, source: str) -> None:
    """Refuse a content that none of the trusted keys has signed.

    Args:
        content: What was signed.
        signature: The signature.
        keys: The value of `RETRAIN_RELEASE_TRUSTED`: public keys, one after the other.
        source: Where it comes from, for the message.

    Raises:
        ModelFileError: No trusted key has signed it.
        ValueError: There is no public key of Ed25519.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        trusted = [load_pem_public_key(text) for text in _PUBLIC.findall(_read(keys))]
    except (OSError, ValueError):
        trusted = []
    if not trusted or not all(isinstance(key, Ed25519PublicKey) for key in trusted):
        raise ValueError(
            f"{TRUSTED} names no public keys: make one with `openssl pkey -in release.pem -pubout`"
        )
    for key in trusted:
        try:
            key.verify(signature, content)  # type: ignore[union-attr, call-arg]
        except InvalidSignature:
            continue
        return
    wrong = "has a signature of another key" if signature else "is not signed"
    raise ModelFileError(f"{source} {wrong}: ask who made it, or add the public key to {TRUSTED}")


def _read(value: str) -> bytes:
    return value.encode() if value.lstrip().startswith("-----BEGIN") else Path(value).read_bytes()
