"""TFDV's files: what it infers, what is kept, and what is refused."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from fleet.pipeline.statistics import statistics_of
from fleet.pipeline.tfdv import encode_schema, infer_schema
from tests.fleet.pipeline.vectors import FOLDER, TABLES, columns_from


@pytest.mark.parametrize("table", sorted(TABLES))
def test_infers_what_tfdv_infers(table):
    recorded = (FOLDER / f"{table}.schema.pbtxt").read_text()
    theirs = text_format.Parse(recorded, schema_pb2.Schema())
    assert infer_schema(statistics_of(columns_from(table))) == theirs


@pytest.mark.parametrize("table", sorted(TABLES))
def test_infers_the_same_from_tfdv_s_statistics(table):
    recorded = (FOLDER / f"{table}.statistics.pbtxt").read_text()
    statistics = text_format.Parse(recorded, statistics_pb2.DatasetFeatureStatisticsList())
    assert encode_schema(infer_schema(statistics)) == (FOLDER / f"{table}.schema.pbtxt").read_text()
