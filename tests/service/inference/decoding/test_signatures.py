"""What is no image that is read here is named, with a way out."""

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
    "JPEG XL in a container": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "a JPEG XL picture"),
    "JPEG XL": (b"\xff\x0a" + bytes(100), "a JPEG XL picture"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "a JPEG 2000 picture"),
    "a JPEG 2000 codestream": (b"\xff\x4f\xff\x51" + bytes(100), "a JPEG 2000 picture"),
    "an MP4 video": (box(b"isom", b"mp42"), "a video"),
    "a QuickTime video": (box(b"qt  "), "a video"),
    "a raw photo of Canon's": (box(b"crx ", b"isom"), "a camera's raw file"),
    "PDF": (b"%PDF-1.7\n", "a PDF document"),
    "a ZIP archive": (archive(), "a ZIP archive"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing"),
    "HTML": (b"\n\n<!DOCTYPE HTML><title>404</title>", "an HTML page"),
    "HTML with a byte order mark": (b"\xef\xbb\xbf<html>", "an HTML page"),
    "XHTML": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x"><html>', "an HTML page"),
    "a fragment of HTML": (b"<center><h1>502 Bad Gateway</h1></center>", "an HTML page"),
    "a comment before HTML": (b"<!-- made up -->\n<!doctype html><svg/>", "an HTML page"),
    "SVG behind a long comment": (b"<?xml version='1.0'?><!--" + b"x" * 900 + b"--><svg/>", "an SVG drawing"),
    "UTF-16 JSON": ('{"image": 1}'.encode("utf-16"), "JSON"),
    "a JSON string": (b'"/9j/4AAQSkZJRg=="', "JSON"),
    "an encoded form": (b"image=%FF%D8%FF", "a form that is encoded as an address"),
    "a JPEG decoded as Latin-1": (jpeg().decode("latin-1").encode(), "a JPEG that was taken for text"),
    "a JPEG decoded as UTF-8": (jpeg().decode("utf-8", "replace").encode(), "a JPEG that was taken for text"),
    "a QuickTime film without a type": (b"\0\0\1\0moov" + bytes(100), "a video"),
    "AVI": (b"RIFF\x24\0\0\0AVI LIST", "a video (AVI)"),
    "tar": (b"x".ljust(257, b"\0") + b"ustar\00000", "a tar archive"),
    "PPM": (b"P6\n1 1\n255\n\0\0\0", "a portable anymap"),
    "XML behind many comments": (b"<!---->" * 280 + b"<made-up>", "XML"),
    "XML": (b"<Error><Code>AccessDenied</Code></Error>", "XML"),
    "JSON": (json.dumps({"image": base64.b64encode(jpeg()).decode()}).encode(), "JSON"),
    "a JSON list": (b" [1, 2]", "JSON"),
    "a data URL": (b"data:image/jpeg;base64," + base64.b64encode(jpeg()), "a data URL"),
    "base64": (base64.b64encode(jpeg()), "an image in base64"),
    "base64 for URLs": (base64.urlsafe_b64encode(jpeg()), "an image in base64"),
    "base64 in lines": (base64.encodebytes(jpeg()), "an image in base64"),
    "base64 of a HEIC": (base64.b64encode(box(b"heic")), "an image in base64"),
    "a form without its content type": (
        b'--abc\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + jpeg(),
        "a multipart form",
    ),
    "an address": (b"https://example.org/cat.jpg", "an address"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "compressed with gzip"),
    "Photoshop": (b"8BPS\0\1" + bytes(20), "a Photoshop document"),
    "an icon": (b"\0\0\1\0\1\0" + bytes(20), "a Windows icon"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_no_image_is_named(name: str) -> None:
    data, expected = NAMED[name]
    with pytest.raises(UnknownImageType) as caught:
        decode(data, shorter_side=20, max_pixels=1000)
    assert f": they are {expected}" in caught.value.detail
    assert caught.value.detail.endswith("JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF are decoded.")


@pytest.mark.parametrize(
    "data", [b"hello", b"\0", b"BMW makes cars", bytes(range(1, 200)), b"/9j/", b"a" * 100]
)
def test_anything_else_is_not_named(data: bytes) -> None:
    with pytest.raises(UnknownImageType, match="which is no known image type"):
        decode(data, shorter_side=20, max_pixels=1000)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim"])
def test_a_heic_is_recognised(brand: bytes) -> None:
    assert image_format(box(brand, b"mif1", b"MiHB", b"tmap")) == "heif"
    assert image_format(box(b"mif1", b"avif")) == "avif"


def test_a_heic_names_what_would_read_it() -> None:
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
    assert "they are a HEIC or HEIF picture, as iPhones take them" in done.stdout
    assert "install this service's extra 'heif'" in done.stdout
