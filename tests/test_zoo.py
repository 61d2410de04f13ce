from pathlib import Path

import pytest

from hrnet_jax import zoo

W18 = zoo.get("fcn_hr18_512x1024_160k_cityscapes")

# As published, separate from the table under test: name, end of the file's name.
FILES = """
fcn_hr18s_512x1024_40k_cityscapes 20200601_014216-93db27d0
fcn_hr18_512x1024_40k_cityscapes 20200601_014216-f196fb4e
fcn_hr48_512x1024_40k_cityscapes 20200601_014240-a989b146
fcn_hr18s_512x1024_80k_cityscapes 20200601_202700-1462b75d
fcn_hr18_512x1024_80k_cityscapes 20200601_223255-4e7b345e
fcn_hr48_512x1024_80k_cityscapes 20200601_202606-58ea95d6
fcn_hr18s_512x1024_160k_cityscapes 20200602_190901-4a0797ea
fcn_hr18_512x1024_160k_cityscapes 20200602_190822-221e4a4f
fcn_hr48_512x1024_160k_cityscapes 20200602_190946-59b7973e
fcn_hr18s_512x512_80k_ade20k 20200614_144345-77fc814a
fcn_hr18_512x512_80k_ade20k 20210827_114910-6c9382c0
fcn_hr48_512x512_80k_ade20k 20200614_193946-7ba5258d
fcn_hr18s_512x512_160k_ade20k 20210829_174739-f1e7c2e7
fcn_hr18_512x512_160k_ade20k 20200614_214426-ca961836
fcn_hr48_512x512_160k_ade20k 20200614_214407-a52fc02c
fcn_hr18s_512x512_20k_voc12aug 20210829_174910-0aceadb4
fcn_hr18_512x512_20k_voc12aug 20200617_224503-488d45f7
fcn_hr48_512x512_20k_voc12aug 20200617_224419-89de05cd
fcn_hr18s_512x512_40k_voc12aug 20200614_000648-4f8d6e7f
fcn_hr18_512x512_40k_voc12aug 20200613_224401-1b4b76cd
fcn_hr48_512x512_40k_voc12aug 20200613_222111-1b0f18bc
fcn_hr48_480x480_40k_pascal_context 20200911_164852-667d00b0
fcn_hr48_480x480_80k_pascal_context 20200911_155322-847a6711
fcn_hr48_480x480_40k_pascal_context_59 20210410_122738-b808b8b2
fcn_hr48_480x480_80k_pascal_context_59 20210411_003240-3ae7081e
"""
COSTS = {  # memory in GB, images per second; published for the shortest schedules only
    "fcn_hr18s_512x1024_40k_cityscapes": (1.7, 23.74),
    "fcn_hr18_512x1024_40k_cityscapes": (2.9, 12.97),
    "fcn_hr48_512x1024_40k_cityscapes": (6.2, 6.42),
    "fcn_hr18s_512x512_80k_ade20k": (3.8, 38.66),
    "fcn_hr18_512x512_80k_ade20k": (4.9, 22.57),
    "fcn_hr48_512x512_80k_ade20k": (8.2, 21.23),
    "fcn_hr18s_512x512_20k_voc12aug": (1.8, 43.36),
    "fcn_hr18_512x512_20k_voc12aug": (2.9, 23.48),
    "fcn_hr48_512x512_20k_voc12aug": (6.2, 22.05),
    "fcn_hr48_480x480_40k_pascal_context": (6.1, 8.86),
}


def test_the_files_and_costs_are_the_published_ones():
    assert [row.file() for row in zoo.ROWS] == [
        f"{line.replace(' ', '_')}.pth" for line in FILES.strip().splitlines()
    ]
    assert {r.name: (r.memory, r.fps) for r in zoo.ROWS if r.memory or r.fps} == COSTS
    old = [(row.file(u), u.miou, u.miou_ms_flip) for row in zoo.ROWS for u in row.older]
    assert old == [
        ("fcn_hr18_512x512_80k_ade20k_20200614_185145-66f20cb7.pth", 35.51, 36.80),
        ("fcn_hr18s_512x512_160k_ade20k_20200614_214413-870f65ac.pth", 33.00, 34.55),
        ("fcn_hr18s_512x512_20k_voc12aug_20200617_224503-56e36088.pth", 65.20, 68.55),
    ]


def test_the_addresses_are_the_published_ones():
    folder = "https://download.openmmlab.com/mmsegmentation/v0.5/hrnet/"
    assert W18.url == (
        f"{folder}fcn_hr18_512x1024_160k_cityscapes/"
        "fcn_hr18_512x1024_160k_cityscapes_20200602_190822-221e4a4f.pth"
    )
    assert W18.log_url == (
        f"{folder}fcn_hr18_512x1024_160k_cityscapes/"
        "fcn_hr18_512x1024_160k_cityscapes_20200602_190822.log.json"
    )
    assert zoo.ROWS[-1].log_url == (
        f"{folder}fcn_hr48_480x480_80k_pascal_context_59/"
        "fcn_hr48_480x480_80k_pascal_context_59-20210411_003240.log.json"
    )


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ([], 25),
        (["cityscapes"], 9),
        (["Cityscapes", "hr18"], 3),  # not hr18s
        (["160k", "hr18s"], 2),
        (["pascal_context"], 2),  # not the 59
        (["59"], 2),
        ([W18.name], 1),
    ],
)
def test_rows_are_chosen_by_words(words, count):
    assert len(zoo.select(words)) == count


def test_words_of_no_row_name_those_there_are():
    with pytest.raises(ValueError, match=r"No row .* 'hr18 coco'; choose from hr18s, cityscapes,"):
        zoo.select(["hr18", "coco"])
    with pytest.raises(ValueError, match=r"no row 'fcn_hr18_160k_cityscapes'; did you mean fcn_hr"):
        zoo.get("fcn_hr18_160k_cityscapes")
    with pytest.raises(ValueError, match=r"no row 'x'; --mode zoo lists all"):
        zoo.get("x")


def test_a_file_is_known_by_its_content_and_by_its_name():
    older = zoo.get("fcn_hr18_512x512_80k_ade20k")
    assert zoo.find(file="a.pth", sha256="221e4a4f" + "0" * 56) == (W18, W18.upload)
    assert zoo.find(file=W18.file()) == (W18, W18.upload)
    assert zoo.find(file=W18.file(), sha256="66f20cb7" * 8) == (older, older.older[0])
    assert zoo.find(file="a.pth", sha256="0" * 64) is None


def test_a_name_stands_for_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert zoo.locate("runs/x") == Path("runs/x")
    with pytest.raises(FileNotFoundError, match=rf"convert.from_pytorch --zoo {W18.name}$"):
        zoo.locate(W18.name)
    (tmp_path / "weights" / W18.name / "checkpoints").mkdir(parents=True)
    assert zoo.locate(W18.name) == Path("weights") / W18.name
    (tmp_path / W18.name).mkdir()  # an existing folder comes first
    assert zoo.locate(W18.name) == Path(W18.name)
