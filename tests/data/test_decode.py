import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image as PILImage

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets.cityscapes import DATASET as CITYSCAPES
from hrnet_jax.data.decode import decode, decode_image, decode_label, map_label
from hrnet_jax.data.headers import BadFile
from hrnet_jax.data.sources.folder import Record

PETS = folder_dataset(classes=("cat", "dog", "owl"))


def encoded(array, *, mode=None, **options):
    image = PILImage.fromarray(np.asarray(array))
    file = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(
        file, options.pop("format", "PNG"), **options
    )
    return file.getvalue()


def record(image, label):
    return Record(id="a", image=image, label=label, image_path="a.jpg", label_path="a.png")


def random_image(height=6, width=9):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_is_decoded_as_rgb_and_its_label_mapped():
    image, label = random_image(2, 3), np.array([[7, 8, 0], [33, 11, 7]], np.uint8)
    example = decode(record(encoded(image), encoded(label)), CITYSCAPES)
    assert example["id"] == "a"
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], [[0, 1, 255], [18, 2, 0]])
    assert example["label"].dtype == np.uint8


def test_grey_images_get_three_channels():
    grey = random_image()[..., 0]
    decoded = decode_image(encoded(grey), path="a.png")
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, axis=2))


def test_jpegs_follow_their_exif_rotation():
    exif = PILImage.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees clockwise for display
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 16:] = 255
    data = encoded(image, format="JPEG", exif=exif)
    turned = decode_image(data, path="a.jpg")
    assert turned.shape == (32, 16, 3)
    assert turned[:15].max() < 50
    assert turned[17:].min() > 200
    as_reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(turned, as_reference[..., ::-1])


def test_without_a_label_no_pixel_has_a_class():
    example = decode(record(encoded(random_image(2, 3)), None), CITYSCAPES)
    np.testing.assert_array_equal(example["label"], np.full((2, 3), 255))
    assert example["label"].dtype == np.uint8


def pngs():
    """RGB and grey PNGs of all filters, compressions, odd sizes, interlaced or transparent."""
    smooth = cv2.GaussianBlur(random_image(61, 83), (0, 0), 2)  # so that PNG uses all filters
    for image in (smooth, random_image(7, 1), random_image(1, 9), smooth[..., 0]):
        for level in (0, 1, 9):
            flags = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER]
            yield cv2.imencode(".png", image, [*flags, cv2.IMWRITE_PNG_ALL_FILTERS])[1].tobytes()
        transparent = (1, 2, 3) if image.ndim == 3 else 5
        yield encoded(image, transparency=transparent)
        yield encoded(image, gamma=0.5, dpi=(300, 300), icc_profile=b"none")


@pytest.mark.parametrize("data", list(pngs()))
def test_plain_pngs_give_the_bytes_of_opencv_and_pillow(data):
    image = decode_image(data, path="a.png")
    as_reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(image, as_reference[..., ::-1])
    if PILImage.open(io.BytesIO(data)).mode == "L":
        label = np.asarray(PILImage.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decode_label(data, path="a.png"), label)


def test_a_damaged_png_is_named_wherever_the_damage_is():
    whole = encoded(random_image(20, 30))
    for place in range(8, len(whole) - 16, 41):
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises(ValueError, match=r"Cannot decode the image a\.png"):
            decode_image(damaged, path="a.png")


def test_pngs_follow_their_exif_rotation():
    exif = PILImage.Exif()
    exif[0x0112] = 6
    image = random_image(6, 9)
    turned = decode_image(encoded(image, exif=exif), path="a.png")
    np.testing.assert_array_equal(turned, np.rot90(image, -1))


def test_a_palette_label_gives_its_indices():
    values = np.array([[0, 2], [255, 1]], np.uint8)
    file = PILImage.fromarray(values).convert("P")
    file.putpalette(list(range(255, -1, -1)) * 3)
    data = io.BytesIO()
    file.save(data, "PNG")
    np.testing.assert_array_equal(decode_label(data.getvalue(), path="a.png"), values)


def test_one_and_sixteen_bit_labels_keep_their_values():
    mask = np.array([[0, 1, 1]], np.uint8)
    one_bit = encoded(mask * 255, mode="1")
    np.testing.assert_array_equal(decode_label(one_bit, path="a.png"), mask)
    sixteen_bit = encoded(mask.astype(np.uint16) * 200)
    np.testing.assert_array_equal(decode_label(sixteen_bit, path="a.png"), mask * 200)


def test_a_sixteen_bit_label_with_large_values_is_refused():
    with pytest.raises(ValueError, match=r"16-bit label a\.png holds values up to 256"):
        decode_label(encoded(np.array([[3, 256]], np.uint16)), path="a.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_label_with_several_channels_is_refused(mode):
    data = encoded(random_image(), mode=mode)
    with pytest.raises(ValueError, match=rf"label a\.png has Pillow mode '{mode}'"):
        decode_label(data, path="a.png")


@pytest.mark.parametrize("data", [b"", b"no image"])
def test_an_undecodable_file_is_named(data):
    with pytest.raises(ValueError, match=r"Cannot decode the image dir/a\.jpg \(\d bytes\)"):
        decode_image(data, path="dir/a.jpg")
    with pytest.raises(ValueError, match=r"Cannot decode the label dir/a\.png \(\d bytes\)"):
        decode_label(data, path="dir/a.png")


def test_a_truncated_label_is_named_wherever_it_ends():
    whole = encoded(random_image(40, 40)[..., 0])
    for length in range(0, len(whole) - 16, 37):  # the last chunk has no pixels
        with pytest.raises(ValueError, match=r"Cannot decode the label a\.png"):
            decode_label(whole[:length], path="a.png")


def test_different_sizes_are_refused_with_both_named():
    label = np.zeros((9, 7), np.uint8)
    with pytest.raises(ValueError, match=r"(?s)6 x 9  a\.jpg\n  9 x 7  a\.png") as error:
        decode(record(encoded(random_image(6, 9)), encoded(label)), PETS)
    assert "EXIF" not in str(error.value)


def test_a_label_that_missed_its_images_rotation_gets_a_hint():
    exif = PILImage.Exif()
    exif[0x0112] = 6
    image = encoded(random_image(6, 9), format="JPEG", exif=exif)
    with pytest.raises(ValueError, match="rotate the label too"):
        decode(record(image, encoded(np.zeros((6, 9), np.uint8))), PETS)


def test_an_illegal_value_is_reported_with_count_and_place():
    raw = np.zeros((4, 5), np.uint8)
    raw[2, 3:] = 77
    with pytest.raises(ValueError, match=r"label a\.png holds values outside") as error:
        map_label(raw, PETS, path="a.png")
    assert "value 77: 2 pixels, the first at (y=2, x=3)" in str(error.value)
    assert "Legal values: 0-2, 255." in str(error.value)


def test_train_ids_in_place_of_raw_ids_get_a_hint():
    with pytest.raises(ValueError, match="looks like class indices already"):
        map_label(np.array([[0, 18, 255]], np.uint8), CITYSCAPES, path="a.png")


def test_an_unmapped_255_gets_a_hint():
    dataset = folder_dataset(classes=("cat", "dog"), label_map={0: 0, 1: 1})
    with pytest.raises(ValueError, match="add 255: 255 to the label_map"):
        map_label(np.array([[0, 255]], np.uint8), dataset, path="a.png")


# Bad input: each kind has one outcome.


def sixteen_bit(values):
    return cv2.imencode(".png", np.asarray(values, np.uint16))[1].tobytes()


def exif(orientation):
    tags = PILImage.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_a_truncated_image_is_named_wherever_it_ends(format):
    smooth = cv2.resize(random_image(5, 7), (70, 50), interpolation=cv2.INTER_LINEAR)
    whole = encoded(smooth, format=format)
    assert decode_image(whole, path="a").shape == (50, 70, 3)
    for length in range(0, len(whole) * 9 // 10, len(whole) // 23):
        with pytest.raises(BadFile, match=r"Cannot decode the image a \(") as error:
            decode_image(whole[:length], path="a")
        assert error.value.kind == "unreadable"


def test_a_jpeg_without_its_last_bytes_is_refused():
    whole = encoded(random_image(50, 70), format="JPEG")
    for missing in range(1, 60):
        with pytest.raises(BadFile, match="It ends too early"):
            decode_image(whole[:-missing], path="a.jpg")


def test_the_content_decides_what_a_file_is():
    image = random_image()
    np.testing.assert_array_equal(decode_image(encoded(image), path="a.jpg"), image)


def test_a_palette_image_shows_its_colours_and_alpha_is_dropped():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 3:] = (204, 102, 51)
    np.testing.assert_array_equal(decode_image(encoded(image, mode="P"), path="a.png"), image)
    transparent = np.dstack([image, np.zeros((4, 6), np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(transparent), path="a.png"), image)


def test_cmyk_turns_into_the_colours_that_pillow_sees():
    image = np.full((32, 32, 3), 200, np.uint8)
    image[:, 16:] = (255, 0, 0)
    data = encoded(image, mode="CMYK", format="JPEG", quality=100)
    seen = np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert abs(decode_image(data, path="a.jpg") - seen).max() <= 2


def test_of_16_bits_the_upper_8_remain():
    data = sixteen_bit(np.arange(0, 65_536, 1024).reshape(8, 8))
    expected = np.arange(0, 256, 4).reshape(8, 8)
    np.testing.assert_array_equal(decode_image(data, path="a.png")[..., 1], expected)


@pytest.mark.parametrize("largest", [255, 4095])
def test_a_16_bit_image_that_would_turn_black_is_refused(largest):
    with pytest.raises(BadFile, match=r"16-bit image a\.png uses less than a sixteenth"):
        decode_image(sixteen_bit([[0, largest]]), path="a.png")


def test_float_images_are_refused():
    data = encoded(np.zeros((3, 4), np.float32), format="TIFF")
    with pytest.raises(BadFile, match=r"image a\.tif has 32 bits per channel; save it with 8"):
        decode_image(data, path="a.tif")


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (7, 13), (97, 101)])
def test_small_thin_and_prime_sizes_work(size):
    image = random_image(*size)
    example = decode(record(encoded(image), encoded(image[..., 0] % 3)), PETS)
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], image[..., 0] % 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_an_exif_tag_rotates_image_and_label_alike(orientation, format):
    image = random_image(4, 6)
    turned = decode_image(encoded(image, format=format, exif=exif(orientation)), path="a")
    label = decode_label(encoded(image[..., 0], format=format, exif=exif(orientation)), path="a")
    np.testing.assert_array_equal(turned[..., 0], label)
    assert turned.shape[:2] == ((4, 6) if orientation < 5 else (6, 4))


def test_a_transposed_label_is_recognised():
    with pytest.raises(ValueError, match="the label is transposed or rotated"):
        decode(record(encoded(random_image(6, 9)), encoded(np.zeros((9, 6), np.uint8))), PETS)


@pytest.mark.parametrize("bits", [2, 4])
def test_labels_of_few_bits_keep_the_values_that_are_stored(bits):
    values = np.arange(2**bits, dtype=np.uint8)[None]
    packed = np.packbits(((values[0, :, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8))

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", values.size, 1, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" + packed.tobytes())
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    )
    np.testing.assert_array_equal(decode_label(data, path="a.png"), values)


def test_a_float_label_is_refused():
    with pytest.raises(BadFile, match="has Pillow mode 'F'"):
        decode_label(encoded(np.zeros((3, 4), np.float32), format="TIFF"), path="a.tif")


def test_a_jpeg_label_is_refused():
    with pytest.raises(BadFile, match="is a JPEG, whose compression mixes class values"):
        decode_label(encoded(random_image()[..., 0], format="JPEG"), path="a.png")
