"""Predictions beside published measurements: how far off the cost model is, and where.

A measured configuration becomes a scenario and a candidate, and the analytic cost model says what
it would deliver; nothing of the figures goes into the prediction. Only `autopar.specs`,
`autopar.catalog` and the cost model are used, so that what is judged is what `solve` prints.
"""
