"""Pages for people: one self-contained HTML file each, readable offline and on a phone.

``report`` shows an evaluation, ``neighbours`` the pictures most like a query, ``pictures`` makes
the thumbnails both embed. ``charts`` computes where ink goes and ``rendering`` fills the templates.
"""
