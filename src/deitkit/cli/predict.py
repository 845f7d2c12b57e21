"""deitkit predict"""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Any

import numpy as np

from deitkit.data import printable
from deitkit.errors import DataError, DeitkitError
from deitkit.evaluation.opening import existing_path, list_pictures, open_predictor, predict_all
from deitkit.reporting.late_bar import LateBar

SHOWN_CLASSES = 3


def predict(run: str, *images: str, json: bool = False, embeddings: str | None = None) -> int:
    """Name the class of pictures, with probabilities.

    deitkit predict runs/flowers new/*.jpg folder/
    deitkit predict runs/flowers cat.jpg --json
    deitkit predict runs/flowers/export-onnx/model.onnx new/    (needs no torch, starts at once)

    Parameters
    ----------
    run
        A run folder, the bundle in it, or a file of `deitkit export to=onnx`.
    images
        Pictures, or folders or shards (Parquet, tar) of them.
    json
        Print one JSON list: source, class, probability, whether the model abstains because it is
        not sure enough, probabilities by class.
    embeddings
        Also write the vectors before the head to this .npy file, a row a picture.
    """
    if not images:
        raise DataError("NO_IMAGES", "predict", "no picture is named", "add files or folders")
    path = existing_path(run)
    found = list_pictures(images)
    predictor = open_predictor(path, num_pictures=len(found))
    names = predictor.class_names
    bar = LateBar()
    bad: list[tuple[str, str]] = []
    rows: list[dict[str, Any]] = []
    vectors: list[np.ndarray] = []
    try:
        predictions = predict_all(
            predictor,
            found,
            embeddings=embeddings is not None,
            progress=bar.progress,
            on_bad=lambda source, error: bad.append((source, _reason(error))),
        )
        for prediction, vector in predictions:
            ordered = prediction.probabilities.argsort()[::-1]
            rows.append(
                {
                    "source": prediction.source,
                    "class": prediction.class_name,
                    "probability": prediction.probability,
                    "abstains": prediction.abstains,
                    "probabilities": {
                        names[k]: float(prediction.probabilities[k]) for k in ordered
                    },
                }
            )
            if vector is not None:
                vectors.append(vector)
    finally:
        bar.close()
    for source, reason in bad:
        print(f"deitkit: left out {printable(source)}: {printable(reason)}", file=sys.stderr)
    if json:
        failed = [{"source": source, "error": reason} for source, reason in bad]
        print(json_module.dumps([*rows, *failed], indent=1))
    else:
        for row in rows:
            shown = list(row["probabilities"].items())[:SHOWN_CLASSES]
            answers = "  ".join(f"{printable(name)} {100 * p:.1f} %" for name, p in shown)
            unsure = "  (not sure)" if row["abstains"] else ""
            print(f"{printable(row['source'])}\t{answers}{unsure}")
    if embeddings is not None and vectors:
        _write_vectors(Path(embeddings).expanduser(), vectors)
    if bad and not rows:
        raise DataError(
            "NO_IMAGES", images[0], "none of the pictures can be read", "see the reasons above"
        )
    return 0


def _reason(error: Exception) -> str:
    return error.why if isinstance(error, DeitkitError) else str(error)


def _write_vectors(path: Path, vectors: list[np.ndarray]) -> None:
    import io

    from deitkit.runtime.durable import write_file

    stream = io.BytesIO()
    np.save(stream, np.stack(vectors), allow_pickle=False)
    write_file(path, stream.getvalue())
