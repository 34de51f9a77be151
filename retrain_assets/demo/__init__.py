"""Brings the real flights of 2013 in, day by day, the way data lands anywhere."""
