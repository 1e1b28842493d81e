"""What the admin listener answers from: what an operator may ask and order, what happened, what the page shows.

    operator       each question and order
    events         what happened, for GET /events
    picture, rates what the page at /ui is drawn from
"""
