"""Writes tests/data/pq_faiss.safetensors: product quantisers that Faiss trained.

    python make_faiss_golden.py OUT.safetensors      (needs faiss-cpu, numpy and safetensors)

`rows` are clustered and skewed as keys are. For pq4x8 and pq8x4 there are Faiss's centroids, the
codes it gives the first rows, what it decodes them to, and its mean squared error on all rows.
"""
import sys

import faiss
import numpy as np
from safetensors.numpy import save_file

DIMS = 16
N_CODED = 200

random = np.random.default_rng(1)
middles = random.normal(size=(12, DIMS)) * 3
rows = middles[random.integers(12, size=1500)] + random.normal(size=(1500, DIMS))
rows = (rows * np.linspace(2, 0.3, DIMS)).astype(np.float16).astype(np.float32)
out = {'rows': rows.astype(np.float16)}
for name, n_subspaces, bits in (('pq4x8', 8, 4), ('pq8x4', 4, 8)):
    quantizer = faiss.ProductQuantizer(DIMS, n_subspaces, bits)
    quantizer.cp.niter = 25
    quantizer.cp.max_points_per_centroid = 1000000
    quantizer.train(rows)
    centroids = faiss.vector_to_array(quantizer.centroids)
    centroids = centroids.reshape(n_subspaces, 1 << bits, DIMS // n_subspaces)
    decoded = quantizer.decode(quantizer.compute_codes(rows))
    codes = quantizer.compute_codes(rows[:N_CODED])
    if bits == 4:  # two to a byte, the first in the low half
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(N_CODED, n_subspaces)
    out[name + '.centroids'] = centroids
    out[name + '.codes'] = codes.astype(np.int32)
    out[name + '.decoded'] = decoded[:N_CODED].copy()
    out[name + '.error'] = np.array([((rows - decoded) ** 2).mean()], np.float32)
save_file(out, sys.argv[1])
