"""Measuring methods: ``command`` dispatches, ``results`` keeps one row per picture, ``stats`` compares the rows.

``pixelworld`` (methods, runner, report) measures on PixelWorld, where every picture can be judged exactly.
"""
