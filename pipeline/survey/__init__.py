"""What a table that nobody declared holds: looked at as a whole, before a contract is written."""

from pipeline.survey.sniff import sniffed as sniffed
from pipeline.survey.whole import Survey as Survey
from pipeline.survey.whole import modelled as modelled
from pipeline.survey.whole import surveyed as surveyed
