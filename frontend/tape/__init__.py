"""What eager operations leave behind so that they can be differentiated: nodes, saved values, views."""
