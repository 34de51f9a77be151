"""The HTTP service of every production model: `retrain serve`.

`contract` says what a request may hold, `rows` makes features of it by the code of training, `fast`
is the same model with less between, `version` is one version that was verified, `follow` swaps it
when the ledger says so, `app` answers. Not here: deciding which version is in production.
"""
