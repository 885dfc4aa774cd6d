"""What a person may ask for."""

import pytest
from own_images import options


@pytest.mark.parametrize(
    ('given', 'text'),
    [
        (dict(epochs=0), '`--epochs` = 0'),
        (dict(batch_size=1), '`--batch-size` = 1'),
        (dict(val_share=1.0), '`--val-share` = 1.0'),
    ],
)
def test_numbers_that_make_no_sense(given, text, tmp_path):
    with pytest.raises(ValueError) as error:
        options(tmp_path, **given)
    assert text in str(error.value)
