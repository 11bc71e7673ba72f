"""Unsupported content is named in the error, with advice on what to send."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from service.errors import UnknownImageType
from service.inference.decoding.decode import decode
from service.inference.decoding.signatures import image_format


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("photo.jpg", jpeg())
    return buffer.getvalue()


def box(brand: bytes, *others: bytes) -> bytes:
    content = b"ftyp" + brand + bytes(4) + b"".join(others)
    return (len(content) + 4).to_bytes(4) + content + bytes(500)


NAMED = {
    "JPEG XL in a container": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
    "JPEG XL": (b"\xff\x0a" + bytes(100), "JPEG XL"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "JPEG 2000"),
    "a JPEG 2000 codestream": (b"\xff\x4f\xff\x51" + bytes(100), "JPEG 2000"),
    "an MP4 video": (box(b"isom", b"mp42"), "video"),
    "a QuickTime video": (box(b"qt  "), "video"),
    "a raw photo of Canon's": (box(b"crx ", b"isom"), "camera raw file"),
    "PDF": (b"%PDF-1.7\n", "PDF document"),
    "a ZIP archive": (archive(), "ZIP archive or Office document"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG drawing"),
    "HTML": (b"\n\n<!DOCTYPE HTML><title>404</title>", "HTML page"),
    "HTML with a byte order mark": (b"\xef\xbb\xbf<html>", "HTML page"),
    "XHTML": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x"><html>', "HTML page"),
    "a fragment of HTML": (b"<center><h1>502 Bad Gateway</h1></center>", "HTML page"),
    "a comment before HTML": (b"<!-- made up -->\n<!doctype html><svg/>", "HTML page"),
    "SVG behind a long comment": (b"<?xml version='1.0'?><!--" + b"x" * 900 + b"--><svg/>", "SVG drawing"),
    "UTF-16 JSON": ('{"image": 1}'.encode("utf-16"), "JSON"),
    "a JSON string": (b'"/9j/4AAQSkZJRg=="', "JSON"),
    "an encoded form": (b"image=%FF%D8%FF", "URL-encoded form"),
    "a JPEG decoded as Latin-1": (jpeg().decode("latin-1").encode(), "JPEG decoded as text"),
    "a JPEG decoded as UTF-8": (jpeg().decode("utf-8", "replace").encode(), "JPEG decoded as text"),
    "a QuickTime film without a type": (b"\0\0\1\0moov" + bytes(100), "video"),
    "AVI": (b"RIFF\x24\0\0\0AVI LIST", "video (AVI)"),
    "tar": (b"x".ljust(257, b"\0") + b"ustar\00000", "tar archive"),
    "PPM": (b"P6\n1 1\n255\n\0\0\0", "portable anymap"),
    "XML behind many comments": (b"<!---->" * 280 + b"<made-up>", "XML"),
    "XML": (b"<Error><Code>AccessDenied</Code></Error>", "XML"),
    "JSON": (json.dumps({"image": base64.b64encode(jpeg()).decode()}).encode(), "JSON"),
    "a JSON list": (b" [1, 2]", "JSON"),
    "a data URL": (b"data:image/jpeg;base64," + base64.b64encode(jpeg()), "data URL"),
    "base64": (base64.b64encode(jpeg()), "image in base64"),
    "base64 for URLs": (base64.urlsafe_b64encode(jpeg()), "image in base64"),
    "base64 in lines": (base64.encodebytes(jpeg()), "image in base64"),
    "base64 of a HEIC": (base64.b64encode(box(b"heic")), "image in base64"),
    "a form without its content type": (
        b'--abc\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + jpeg(),
        "multipart form",
    ),
    "an address": (b"https://example.org/cat.jpg", "URL"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "gzip-compressed data"),
    "Photoshop": (b"8BPS\0\1" + bytes(20), "Photoshop document"),
    "an icon": (b"\0\0\1\0\1\0" + bytes(20), "Windows icon"),
}


@pytest.mark.parametrize("name", NAMED)
def test_unsupported_content_is_named(name: str) -> None:
    data, expected = NAMED[name]
    with pytest.raises(UnknownImageType) as caught:
        decode(data, shorter_side=20, max_pixels=1000)
    assert f"image: unsupported type '{expected}" in caught.value.detail
    assert caught.value.detail.endswith("allowed: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF)")


@pytest.mark.parametrize(
    "data", [b"hello", b"\0", b"BMW makes cars", bytes(range(1, 200)), b"/9j/", b"a" * 100]
)
def test_unknown_content(data: bytes) -> None:
    with pytest.raises(UnknownImageType, match=r"^image: unknown type"):
        decode(data, shorter_side=20, max_pixels=1000)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim"])
def test_heic_is_detected(brand: bytes) -> None:
    assert image_format(box(brand, b"mif1", b"MiHB", b"tmap")) == "heif"
    assert image_format(box(b"mif1", b"avif")) == "avif"


@pytest.mark.slow
def test_heic_error_names_the_missing_extra() -> None:
    code = f"""
import sys
sys.modules["pillow_heif"] = None  # as if the extra were not installed
from service.inference.decoding.decode import decode
from service.errors import UnknownImageType
try:
    decode({box(b"heic")!r}, shorter_side=20, max_pixels=1000)
except UnknownImageType as error:
    print(error.detail)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "image: unsupported type 'HEIC or HEIF'" in done.stdout
    assert "install this service's extra 'heif'" in done.stdout
