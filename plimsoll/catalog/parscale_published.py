"""What the paper of ParScale published: shapes, parameter counts and losses, which are facts.

Source: arXiv 2505.10475.
"""

import numpy as np

from plimsoll.cost.parallel import StreamShape
from plimsoll.laws.fit import fit
from plimsoll.laws.forms import ParScale
from plimsoll.laws.table import LossTable

__all__ = [
    "BASE",
    "BIG",
    "COUNTS",
    "LOSSES",
    "STREAMS",
    "dense_of_equal_loss",
    "losses",
    "shape_of",
]

STREAMS = (1, 2, 4, 8)
_SIZES = ((896, 4864), (1024, 5504), (1280, 6912), (1536, 8320), (2048, 11008), (2560, 13824))
"""(hidden, feed-forward); 36 layers, 16 heads of which 2 keep KV."""

COUNTS = (
    (535813376, 693753856, 1088376320, 1571472384, 2774773760, 4353203200),
    (538195842, 696738818, 1092762882, 1577522690, 2784937986, 4368529922),
    (540577412, 699722756, 1097148164, 1583571460, 2795100164, 4383854084),
    (545340552, 705690632, 1105918728, 1595669000, 2815424520, 4414502408),
)
"""Parameters without embeddings as published, a row for each P."""

LOSSES = {
    "stack": (
        (1.1722, 1.1496, 1.1131, 1.0817, 1.0451, 1.0213),
        (1.1507, 1.1262, 1.0940, 1.0623, 1.0244, 1.0025),
        (1.1354, 1.1124, 1.0808, 1.0490, 1.0126, 0.9906),
        (1.1231, 1.0997, 1.0688, 1.0383, 1.0016, 0.9794),
    ),
    "pile": (
        (2.1113, 2.0671, 2.0027, 1.9539, 1.8876, 1.8451),
        (2.0772, 2.0363, 1.9730, 1.9266, 1.8610, 1.8137),
        (2.0544, 2.0128, 1.9509, 1.9040, 1.8394, 1.7938),
        (2.0364, 1.9933, 1.9318, 1.8856, 1.8218, 1.7772),
    ),
}
"""Published losses after equal tokens, a row for each P, a column a size."""

BIG = 8
BASE = 3
"""The fourth size, 1.6 B."""


def shape_of(index: float) -> StreamShape:
    """The published shape of that index; fractions lie between two, in logarithms."""
    place = np.arange(len(_SIZES))
    hidden, ffn = np.exp([np.interp(index, place, row) for row in np.log(_SIZES).T]).tolist()
    whole = float(index).is_integer()
    hidden, ffn = (round(hidden), round(ffn)) if whole else (hidden, ffn)
    return StreamShape(num_layers=36, hidden=hidden, ffn=ffn, kv_width=hidden / 8, vocab=151_936)


def losses(corpus: str) -> LossTable:
    """The 24 published points; parameters as counted with their streams."""
    params = [shape_of(i).parameters(p) for p in STREAMS for i in range(len(_SIZES))]
    streams = np.repeat(STREAMS, len(_SIZES)).astype(float)
    columns = {"params": np.array(params, dtype=float), "streams": streams}
    return LossTable(name=corpus, columns=columns, loss=np.array(LOSSES[corpus]).ravel())


def dense_of_equal_loss() -> StreamShape:
    """The shape whose loss with one stream is that of the 1.6 B with eight, by the fitted law."""
    k = fit(ParScale(), losses("stack")).named["k"]
    wanted = shape_of(BASE).parameters(BIG) * (k * np.log(BIG) + 1)
    low, high = float(BASE), float(len(_SIZES) - 1)
    for _ in range(60):
        middle = (low + high) / 2
        if shape_of(middle).parameters() < wanted:
            low = middle
        else:
            high = middle
    return shape_of(low)
