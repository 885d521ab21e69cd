"""Points in the plane and in space, and clusters: illustration. What is claimed is measured in the full space.

PCA, t-SNE (van der Maaten & Hinton 2008) and UMAP (McInnes et al. 2018); k-means with the silhouette (Rousseeuw 1987)
and HDBSCAN (Campello et al. 2013). Deterministic by seed: one thread, exact neighbours, a start from the principal
components.
"""

import warnings

import numpy as np
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

_COMPONENTS = 50  # principal components that t-SNE, UMAP and the clusters see, as is customary
_NEIGHBOURS = 15  # UMAP's default
_PERPLEXITY = 30  # t-SNE's default
_MOST_CLUSTERS = 10
FEWEST_POINTS = 8  # different ones: with fewer there is nothing to see, and t-SNE and UMAP fail


def project(points, seed=0):
    """PCA, t-SNE and UMAP of the same points, each method fitted once to all of them.

    Args:
        points: (P, D) with at least FEWEST_POINTS different ones and D >= 3; scaled as the caller sees fit.
        seed: of t-SNE and UMAP.

    Returns:
        (coordinates, settings): {"pca2": (P, 2), "pca3": (P, 3), "tsne2": (P, 2), "umap2": (P, 2), "umap3": (P, 3)}
        in float32, and what each method was told, with the variance that the principal components explain.
    """
    # Imported here: it compiles code when imported, which only this function should cost.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors

    components, variance = principal_components(points)
    perplexity = min(_PERPLEXITY, (len(points) - 1) // 3)
    neighbours = min(_NEIGHBOURS, len(points) - 1)
    coordinates = {"pca2": components[:, :2], "pca3": components[:, :3]}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP warns that one thread is used and that it cannot place new points
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
        coordinates["tsne2"] = tsne.fit_transform(components)
        distances, nearest = NearestNeighbors(n_neighbors=neighbours).fit(components).kneighbors(components)
        for dimensions in (2, 3):
            umap = UMAP(
                n_components=dimensions,
                n_neighbors=neighbours,
                init=components[:, :dimensions],
                precomputed_knn=(nearest, distances.astype(np.float32)),
                random_state=seed,
                n_jobs=1,
            )
            coordinates[f"umap{dimensions}"] = umap.fit_transform(components)
    settings = {
        "pca": {"explained_variance_ratio": variance[:3].tolist()},
        "tsne": {"perplexity": perplexity, "initialisation": "pca"},
        "umap": {"neighbours": neighbours, "min_dist": 0.1, "initialisation": "pca"},
        "principal_components": components.shape[1],
        "seed": seed,
    }
    return {name: np.asarray(values, dtype=np.float32) for name, values in coordinates.items()}, settings


def cluster(points, seed=0):
    """k-means, with k between 2 and 10 chosen by the mean silhouette, and HDBSCAN.

    Args:
        points: (P, D) with at least FEWEST_POINTS different ones.

    Returns:
        (labels, summary): {"kmeans": (P,), "hdbscan": (P,)} in int32, -1 for HDBSCAN's noise; and for each the number
        of clusters and the mean silhouette (-1..1; HDBSCAN's over the points that are no noise, None where it
        is not defined), for k-means that of every k tried, for HDBSCAN the share of noise.
    """
    components, _ = principal_components(points)
    with threadpool_limits(1):
        silhouettes, partitions = {}, {}
        for k in range(2, min(_MOST_CLUSTERS, len(np.unique(components, axis=0)) - 1) + 1):
            partitions[k] = KMeans(k, n_init=4, random_state=seed).fit_predict(components)
            silhouettes[k] = _silhouette(components, partitions[k])
        smallest = max(5, len(components) // 50)
        dense = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(components)
    best = max(silhouettes, key=silhouettes.get)
    labels = {"kmeans": partitions[best], "hdbscan": dense}
    summary = {
        "kmeans": {"clusters": best, "silhouette": silhouettes[best], "silhouette_by_clusters": silhouettes},
        "hdbscan": {
            "clusters": int(dense.max()) + 1,
            "silhouette": _silhouette(components[dense >= 0], dense[dense >= 0]),
            "noise_share": float((dense < 0).mean()),
            "smallest_cluster": smallest,
        },
    }
    return {name: np.asarray(values, dtype=np.int32) for name, values in labels.items()}, summary


def principal_components(points):
    """The points in their first 50 principal components (P, K), float32, and the share of variance of each (K,)."""
    points = np.asarray(points, dtype=np.float64)
    with threadpool_limits(1):
        pca = PCA(min(_COMPONENTS, *points.shape), svd_solver="full").fit(points)
        return pca.transform(points).astype(np.float32), pca.explained_variance_ratio_


def _silhouette(points, labels):
    """Mean silhouette; None where there is one cluster only, or every point is its own."""
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(points, labels))
