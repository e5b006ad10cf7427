"""What a row must be: the types of a contract, what widens to them, and the rules a cell is judged by."""

from pipeline.schema.casting import cast as cast
from pipeline.schema.kinds import arrow_type as arrow_type
from pipeline.schema.table import Applied as Applied
from pipeline.schema.table import Rejected as Rejected
from pipeline.schema.table import apply as apply
from pipeline.schema.table import table_schema as table_schema
