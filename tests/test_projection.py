"""Projections and clusters: against NumPy's SVD and scikit-learn's trustworthiness, with planted groups, by seed."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from sklearn.metrics import adjusted_rand_score

from summlens.metrics.projection import FEWEST_POINTS, cluster, project


def groups(sizes=(20, 25, 15), width=12, apart=12.0):
    random = np.random.default_rng(0)
    members = np.repeat(np.arange(len(sizes)), sizes)
    return apart * random.normal(size=(len(sizes), width))[members] + random.normal(size=(sum(sizes), width)), members


def test_pca_is_the_singular_vectors_up_to_sign():
    points, _ = groups()
    coordinates, settings = project(points)
    left, values, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    for name, count in (("pca2", 2), ("pca3", 3)):
        expected = left[:, :count] * values[:count]
        np.testing.assert_allclose(np.abs(coordinates[name]), np.abs(expected), atol=1e-3)
    np.testing.assert_allclose(
        settings["pca"]["explained_variance_ratio"], values[:3] ** 2 / (values**2).sum(), rtol=1e-9
    )


def test_tsne_and_umap_keep_neighbours_and_repeat_by_seed():
    points, _ = groups()
    first, _ = project(points, seed=1)
    again, _ = project(points, seed=1)
    other, _ = project(points, seed=2)
    for name, size in (("tsne2", 2), ("umap2", 2), ("umap3", 3)):
        assert first[name].shape == (60, size)
        # Within-group neighbours among 12 noise dimensions cannot all be kept; unrelated coordinates give about 0.5.
        assert trustworthiness(points, first[name], n_neighbors=8) > 0.85
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["umap2"], other["umap2"])


def test_clusters_find_planted_groups():
    points, members = groups()
    labels, summary = cluster(points)
    assert summary["kmeans"]["clusters"] == 3 and summary["hdbscan"]["clusters"] == 3
    assert adjusted_rand_score(members, labels["kmeans"]) == 1
    found = labels["hdbscan"] >= 0
    assert adjusted_rand_score(members[found], labels["hdbscan"][found]) == 1
    assert summary["hdbscan"]["noise_share"] == pytest.approx((~found).mean())
    assert summary["kmeans"]["silhouette"] == max(summary["kmeans"]["silhouette_by_clusters"].values())


def test_the_fewest_points_work():
    points = np.random.default_rng(3).normal(size=(FEWEST_POINTS, 3))
    coordinates, settings = project(points)
    assert all(np.isfinite(values).all() for values in coordinates.values())
    assert settings["umap"]["neighbours"] < FEWEST_POINTS
    labels, summary = cluster(points)
    assert len(labels["kmeans"]) == FEWEST_POINTS and summary["hdbscan"]["silhouette"] is None
