"""The graph language: types, operators, graphs and the tools on them. Imports nothing from other rooms."""
