"""Where rows come from: files of several formats and places, as raw record batches. No contract is known here."""

from pipeline.sources.file import Block, Cut, File, Piece
from pipeline.sources.formats import format_of, untyped
from pipeline.sources.listing import files
from pipeline.sources.reading import blocks, cut, names

__all__ = ["Block", "Cut", "File", "Piece", "blocks", "cut", "files", "format_of", "names", "untyped"]
