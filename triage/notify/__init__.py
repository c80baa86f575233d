"""Tells receivers that are no PACS: HL7 v2, FHIR, webhook and e-mail; knows no database and retries nothing."""
