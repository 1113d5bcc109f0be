"""Both layers on servers, links and processes that fail: what is sent, received, lost and doubled is counted."""
