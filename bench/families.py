"""The estimators of the bench, made the same way by the peers and by the model files."""

from __future__ import annotations

from typing import Any


def estimator(family: str) -> Any:
    """Return one that is not fitted yet; all of them use one thread."""
    if family == "lightgbm":
        from lightgbm import LGBMRegressor

        return LGBMRegressor(n_estimators=30, num_leaves=15, n_jobs=1, verbose=-1)
    if family == "hgb":
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(max_iter=30, max_leaf_nodes=15, early_stopping=False)
    from sklearn.linear_model import Ridge

    return Ridge(alpha=1.0)
