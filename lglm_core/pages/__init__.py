"""Pages for people: one self-contained HTML file each, readable offline and on a phone.

Each page has a module with its data classes and a function that fills its template: ``report``, ``dataset``,
``neighbours``, ``explanation``. ``report_data``, ``gallery`` and ``explanation_data`` gather the data of
pages from models and datasets. ``charts``, ``heatmap`` and ``overlay`` draw, ``pictures`` makes thumbnails,
and ``rendering`` fills templates.
"""
