"""Folders, tables, shards and Python sequences -> records -> decoded uint8 images. No torch.

`open_dataset` for training, `open_split` for evaluation, `list_images` for prediction; they
share one decoder, `decode`. Names are loaded when they are first used: whoever predicts needs few.
"""

from typing import TYPE_CHECKING

from deitkit.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from deitkit.data.containers import EXTENSIONS
    from deitkit.data.dataset import Dataset, open_dataset, open_split
    from deitkit.data.decoding import DecodePolicy, decode, decode_array
    from deitkit.data.display import printable
    from deitkit.data.faults import REASONS, DecodeFault
    from deitkit.data.image_set import ImageSet
    from deitkit.data.listing import list_encoded, list_images
    from deitkit.data.report import DataReport
    from deitkit.data.sources import check_source
    from deitkit.data.unlabelled import open_unlabelled
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "DataReport": "report",
            "Dataset": "dataset",
            "DecodeFault": "faults",
            "DecodePolicy": "decoding",
            "EXTENSIONS": "containers",
            "ImageSet": "image_set",
            "REASONS": "faults",
            "check_source": "sources",
            "decode": "decoding",
            "decode_array": "decoding",
            "list_encoded": "listing",
            "list_images": "listing",
            "open_dataset": "dataset",
            "open_split": "dataset",
            "open_unlabelled": "unlabelled",
            "printable": "display",
        },
    )

__all__ = [
    "EXTENSIONS",
    "REASONS",
    "DataReport",
    "Dataset",
    "DecodeFault",
    "DecodePolicy",
    "ImageSet",
    "check_source",
    "decode",
    "decode_array",
    "list_encoded",
    "list_images",
    "open_dataset",
    "open_split",
    "open_unlabelled",
    "printable",
]
