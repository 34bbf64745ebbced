"""Control groups: v1, hybrid and v2, found by themselves. config-linux.md#control-groups, cgroups(7)"""
