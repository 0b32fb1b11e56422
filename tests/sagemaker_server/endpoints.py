"""Registry and endpoints: what moto lacks of them goes here, each action by `api.action`."""
