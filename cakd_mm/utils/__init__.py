from .repdistiller_weights import convert_repdistiller_state_dict

__all__ = ['convert_repdistiller_state_dict']
