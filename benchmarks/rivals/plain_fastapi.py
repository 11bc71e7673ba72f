"""A plain FastAPI `def` route: multipart form, full decoding by Pillow, FastAPI's thread pool.

`python -m benchmarks.rivals.plain_fastapi PORT MODEL_FOLDER`
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

from models.zoo.card import read_card
from models.zoo.labels import read_labels
from models.zoo.preprocess import preprocess
from service.inference.session import OnnxSession

FOLDER = Path(sys.argv[2])
CARD = read_card(FOLDER)
LABELS = read_labels(CARD, FOLDER)
SESSION = OnnxSession((FOLDER / CARD.file.name).read_bytes(), CARD)

app = FastAPI()


@app.get("/health")
def health() -> str:
    """Return 200 once the server runs."""
    return "ok"


@app.post("/classify")
def classify(image: UploadFile) -> list[dict[str, Any]]:
    """Return the five most probable classes."""
    pixels = np.asarray(Image.open(io.BytesIO(image.file.read())).convert("RGB"))
    logits = SESSION.run(preprocess(pixels, CARD.input))["logits"][0]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = np.argsort(probabilities)[::-1][:5]
    return [{"label": LABELS[index], "probability": float(probabilities[index])} for index in best]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
