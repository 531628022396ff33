"""Human studies: a blinded page, a small server for raters on one network, and the way back into the records.

    new     runs -> images by prompt and noise -> blinded trials -> DIR/{page.html, images/, study.json, key.json}
    serve   the same page, one-time links, votes.db
    import  votes -> checked ballots -> win rates, mean ranks, agreement -> the runs' records

``study.json`` is all that a rater may see; ``key.json`` says which image is whose and stays with the person who runs
the study. No torch.
"""
