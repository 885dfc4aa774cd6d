"""Which connector leads from a feature to another, for errors."""

# By the number of dimensions.
KINDS = {4: 'a map (N, C, H, W)', 2: 'a vector (N, C)', 3: 'tokens (N, L, C)'}
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
    if name is not None:
        return (
            f"give the student's a {name} (connectors=dict(fit=dict(type='{name}')) in "
            "model.distiller, and connector='fit' in loss_forward_mappings), which "
            "finds the teacher's width and size"
        )
    ways = (f'{KINDS[dim]} with a {CONNECTORS[dim, teacher]}' for dim in (4, 3))
    return f'tap of the student {" or ".join(ways)}'
