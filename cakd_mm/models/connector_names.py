"""Which connector leads from a feature to another, for errors."""

# By the number of dimensions: a vector has 2, tokens have 3, a map has 4.
CONNECTORS = {
    (2, 2): 'PooledConnector',
    (3, 2): 'TokensToVectorConnector',
    (3, 3): 'TokensConnector',
    (3, 4): 'TokensToMapConnector',
    (4, 2): 'PooledConnector',
    (4, 3): 'MapToTokensConnector',
    (4, 4): 'MapConnector',
}


def how_to_fit(student: int, teacher: int) -> str:
    """Return what brings the student's feature to the shape of the teacher's.

    Args:
        student (int): Number of dimensions of the student's feature.
        teacher (int): That of the teacher's.
    """
    name = CONNECTORS.get((student, teacher))
    if name is None:
        return 'tap a map (N, C, H, W) or tokens (N, L, C) of the student as well'
    return (
        f"give the student's a {name} (connectors=dict(fit=dict(type='{name}')) in "
        "model.distiller, and connector='fit' in loss_forward_mappings), which finds "
        "the teacher's width and size"
    )
