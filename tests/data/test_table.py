from pathlib import Path

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.table import mapping_in_words, markdown

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "datasets.md"


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == markdown(DATASETS.values()), (
        "run: python -m hrnet_jax.data.table > docs/datasets.md"
    )


def test_a_mapping_is_written_in_ranges():
    assert mapping_in_words(DATASETS["ade20k"]) == "1-150 → 0-149"
    assert mapping_in_words(DATASETS["voc12aug"]) == "0-20 → 0-20"
    assert mapping_in_words(DATASETS["cityscapes"]).startswith("7-8 → 0-1, 11-13 → 2-4, 17 → 5,")
    odd = folder_dataset(classes=("a", "b"), label_map={3: 1, 4: 0, 7: 255, 8: 255})
    assert mapping_in_words(odd) == "3 → 1, 4 → 0"
    assert "| 3 → 1, 4 → 0 | 7-8 |" in markdown([odd])


def test_unknown_counts_and_a_second_place_are_shown():
    assert "| `custom` | 1 | ? | ? |" in markdown([folder_dataset(classes=("a",))])
    text = markdown([DATASETS["voc12aug"]])
    assert "| else | `JPEGImages/**/*.jpg` | `benchmark_RELEASE/dataset/cls/**/*.mat` |" in text
