"""Search over action sequences for any cost, costs over a rollout function, and the MPC agent.

Knows no model and no environment: a cost is any callable from candidate plans to numbers.
"""
