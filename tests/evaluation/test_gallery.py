import math

import numpy as np

from map_pipeline import MAPPipeline
from map_pipeline.evaluation.gallery import Gallery, embed_composite


def test_rank_in_a_known_gallery() -> None:
    angles = {"Ada": 0.0, "Bob": 0.3, "Eve": 0.8, "Outsider": 0.1}
    vectors = {n: {"one": np.array([np.cos(a), np.sin(a)])} for n, a in angles.items()}
    gallery = Gallery(vectors, vectors, frozenset({"Ada", "Bob", "Eve"}), [])
    face = vectors["Ada"]["one"]
    for place, name in enumerate(("Ada", "Bob", "Eve"), 1):
        assert gallery.place(name, "one", float(vectors[name]["one"] @ face), -1.0, face) == place
    # The target's probe is in the gallery, too; people beyond the members aren't.
    assert gallery.place("Bob", "one", math.cos(0.3), math.cos(0.2), face) == 3
    assert gallery.size == 4
    strangers, same = gallery.pairs("one")
    assert len(strangers) == 2 * 3 * 2
    np.testing.assert_allclose(same, 1)


def test_a_mirrored_composite_is_still_recognised(bundled_pipeline: MAPPipeline) -> None:
    """Its landmarks must be mirrored, too: with wrong ones the similarity would collapse."""
    index = 3
    face, _ = embed_composite(bundled_pipeline, bundled_pipeline.targets.names[index])
    for name, embedding in face.embeddings.items():
        stored = bundled_pipeline.targets.embeddings(name)[index].float().numpy()
        strangers = bundled_pipeline.targets.embeddings(name).float().numpy() @ embedding
        assert strangers.argmax() == index
        assert stored @ embedding > bundled_pipeline.recognisers[name].threshold(0.001)
