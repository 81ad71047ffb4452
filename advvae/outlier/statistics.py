"""How well scores tell two sets of images apart. Everything is rank-based, in float64: no score is squashed first."""

import numpy as np


def detection_metrics(inlier_scores: np.ndarray, outlier_scores: np.ndarray) -> dict[str, float]:
    """The five figures of the field for scores (n_in,) and (n_out,), larger = more outlying.

    Returns:
        `auroc`: the chance that an outlier scores higher than an inlier, a tie counting half.
        `aupr_out`, `aupr_in`: average precision with the outliers, or the inliers, as positives.
        `fpr95_out`: share of inliers flagged when 95 % of outliers are caught (OpenOOD's convention).
        `fpr95_in`: share of outliers accepted when 95 % of inliers are.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    inliers, outliers = np.float64(inlier_scores), np.float64(outlier_scores)
    scores = np.concatenate([inliers, outliers])
    is_outlier = np.repeat([False, True], [len(inliers), len(outliers)])
    return {
        "auroc": float(roc_auc_score(is_outlier, scores)),
        "aupr_out": float(average_precision_score(is_outlier, scores)),
        "aupr_in": float(average_precision_score(~is_outlier, -scores)),
        "fpr95_out": false_positive_rate(outliers, inliers),
        "fpr95_in": false_positive_rate(-inliers, -outliers),
    }


def false_positive_rate(positives: np.ndarray, negatives: np.ndarray, percent: int = 95) -> float:
    """Share of negatives that score at least as high as the threshold that `percent` % of the positives reach.

    The threshold is the highest such one; positives and negatives that tie with it both pass.
    """
    needed = -(-percent * len(positives) // 100)  # rounded up, in integers: 19 of 20
    threshold = np.sort(positives)[len(positives) - needed]
    return float(np.mean(negatives >= threshold))
